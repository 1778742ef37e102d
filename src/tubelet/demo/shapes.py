"""Random shapes as masks, in kinds of which the evaluation split's are never trained on."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from tubelet.demo.textures import Split

__all__ = ["KINDS", "render_mask"]

OUTLINE_POINTS = 96
SUBPIXEL_BITS = 4

Outline = Callable[[np.random.Generator, NDArray[np.float64]], NDArray[np.float64]]
"""Radius, at most 1, at each of the given angles; its points are joined by straight lines."""


def render_mask(rng: np.random.Generator, *, split: Split, side_px: int) -> NDArray[np.float32]:
    """Draws a shape that touches the middle of a square's sides.

    Returns:
        float32 `[side_px, side_px]`, 1 inside, 0 outside, between at the edge.
    """
    kinds = KINDS[split]
    angles = np.arange(OUTLINE_POINTS) * (2 * np.pi / OUTLINE_POINTS)
    radius = kinds[int(rng.integers(len(kinds)))](rng, angles)
    turned = angles + rng.uniform(0, 2 * np.pi)
    middle = (side_px - 1) / 2
    points = middle + (middle - 1) * radius[:, None] * np.stack([np.cos(turned), np.sin(turned)], axis=1)
    mask = np.zeros((side_px, side_px), np.uint8)
    fixed = np.round(points * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(mask, [fixed], (255,), cv2.LINE_AA, SUBPIXEL_BITS)
    return (mask / np.float32(255)).astype(np.float32)


def _ellipse(rng: np.random.Generator, angles: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = rng.uniform(0.55, 1)
    return np.asarray(flat / np.hypot(flat * np.cos(angles), np.sin(angles)))


def _box(rng: np.random.Generator, angles: NDArray[np.float64]) -> NDArray[np.float64]:
    half = np.array([1, rng.uniform(0.5, 1)]) / np.sqrt(2)
    with np.errstate(divide="ignore"):
        return np.asarray(np.minimum(half[0] / np.abs(np.cos(angles)), half[1] / np.abs(np.sin(angles))))


def _triangle(rng: np.random.Generator, angles: NDArray[np.float64]) -> NDArray[np.float64]:
    return _polygon(angles, 3)


def _amoeba(rng: np.random.Generator, angles: NDArray[np.float64]) -> NDArray[np.float64]:
    radius = np.ones_like(angles)
    for order in (1, 2, 3, 4):
        radius += rng.uniform(0, 0.5 / order) * np.cos(order * angles + rng.uniform(0, 2 * np.pi))
    radius = np.maximum(radius, 0.35)
    return np.asarray(radius / radius.max())


def _cross(rng: np.random.Generator, angles: NDArray[np.float64]) -> NDArray[np.float64]:
    arm = rng.uniform(0.3, 0.45)
    across = np.minimum(np.abs(np.cos(angles)), np.abs(np.sin(angles)))
    return np.asarray(np.minimum(1.0, arm / np.maximum(across, 1e-6)))


def _star(rng: np.random.Generator, angles: NDArray[np.float64]) -> NDArray[np.float64]:
    points, depth = int(rng.integers(4, 7)), rng.uniform(0.4, 0.65)
    tooth = np.abs((angles * points / (2 * np.pi)) % 1 - 0.5) * 2
    return np.asarray(depth + (1 - depth) * tooth)


def _hexagon(rng: np.random.Generator, angles: NDArray[np.float64]) -> NDArray[np.float64]:
    return _polygon(angles, int(rng.integers(5, 7)))


def _heart(rng: np.random.Generator, angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """A cardioid: round, with one notch."""
    notch = rng.uniform(0.65, 0.9)
    return np.asarray(1 - notch * np.exp(-((np.minimum(angles, 2 * np.pi - angles) / 0.5) ** 2)))


def _drop(rng: np.random.Generator, angles: NDArray[np.float64]) -> NDArray[np.float64]:
    tail = rng.uniform(0.45, 0.7)
    return np.asarray(tail + (1 - tail) * np.cos(angles / 2) ** 8)


def _polygon(angles: NDArray[np.float64], corners: int) -> NDArray[np.float64]:
    half = np.pi / corners
    return np.asarray(np.cos(half) / np.cos((angles % (2 * half)) - half))


KINDS: dict[Split, tuple[Outline, ...]] = {
    "train": (_ellipse, _box, _triangle, _amoeba, _cross),
    "evaluation": (_star, _hexagon, _heart, _drop),
}
