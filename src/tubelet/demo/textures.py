"""Random textures, in families of which the evaluation split's are never trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["FAMILIES", "Split", "render_texture"]

Split = Literal["train", "evaluation"]
Field = NDArray[np.float32]
Image = NDArray[np.uint8]
Family = Callable[[np.random.Generator, int, float], Field]

MIN_LUMA_GAP = 60.0
"""Between the two ends of a palette, of 255: whatever moves must be seen after strong compression."""


def render_texture(rng: np.random.Generator, *, split: Split, side_px: int, feature_px: float) -> Image:
    """Draws a square texture.

    Args:
        rng: source of every choice.
        split: whose families and palettes are used.
        side_px: n, side of the square.
        feature_px: typical size of a detail.

    Returns:
        uint8 `[n, n, 3]`, RGB.
    """
    families = FAMILIES[split]
    field = families[int(rng.integers(len(families)))](rng, side_px, feature_px)
    detail = _noise(rng, side_px, max(2.0, 0.4 * feature_px))
    field = _stretched(field + np.float32(rng.uniform(0.1, 0.3)) * detail)
    dark, light = _palette(rng, split)
    shade = _noise(rng, side_px, 2.5 * feature_px)[..., None] * rng.uniform(-40, 40, 3)
    image = dark + field[..., None] * (light - dark) + shade
    return np.clip(image, 0, 255).astype(np.uint8)


def _stretched(field: Field) -> Field:
    low, high = np.quantile(field, (0.02, 0.98))
    return np.asarray(np.clip((field - low) / max(high - low, 1e-6), 0, 1), np.float32)


def _palette(rng: np.random.Generator, split: Split) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    weights = np.array([0.299, 0.587, 0.114])
    while True:
        if split == "train":
            ends = rng.uniform(0, 255, (2, 3))
        else:
            hsv = rng.uniform((0, 40, 30), (180, 255, 255), (2, 3)).astype(np.uint8)
            ends = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].astype(np.float64)
        if abs(float((ends[0] - ends[1]) @ weights)) >= MIN_LUMA_GAP:
            return ends[0], ends[1]


def _grid(rng: np.random.Generator, n: int) -> tuple[Field, Field]:
    """Coordinates along and across a random direction, in pixels, with a random origin."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:n, 0:n].astype(np.float32) - rng.uniform(0, n)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return along.astype(np.float32), across.astype(np.float32)


def _noise(rng: np.random.Generator, n: int, feature: float) -> Field:
    """Smooth noise, about -1..1: random numbers every ``feature`` pixels, and Catmull-Rom splines between them."""
    # OpenCV's cubic resize gives other bits with another number of threads.
    position = np.arange(n) / feature
    first = position.astype(int)
    f = (position - first).astype(np.float32)
    weights = np.stack([-f + 2 * f**2 - f**3, 2 - 5 * f**2 + 3 * f**3, f + 4 * f**2 - 3 * f**3, f**3 - f**2]) / 2
    cells = int(first[-1]) + 4
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    across = sum(weights[k] * coarse[:, first + k] for k in range(4))  # [cells, n]
    return np.asarray(sum(weights[k][:, None] * across[first + k] for k in range(4)), np.float32)


def _octaves(rng: np.random.Generator, n: int, feature: float) -> Field:
    scales = (1.5, 0.75, 0.375)
    return np.asarray(
        np.sum([_noise(rng, n, max(2.0, feature * s)) * np.float32(s) for s in scales], axis=0, dtype=np.float32),
        np.float32,
    )


def _stripes(rng: np.random.Generator, n: int, feature: float) -> Field:
    along, _ = _grid(rng, n)
    wave = np.sin(2 * np.pi * along / (2 * feature) + 1.5 * _noise(rng, n, 2 * feature))
    return np.asarray(np.tanh(wave * np.float32(rng.uniform(0.7, 4))) + 0.8 * _noise(rng, n, feature), np.float32)


def _checks(rng: np.random.Generator, n: int, feature: float) -> Field:
    along, across = _grid(rng, n)
    stretch = rng.uniform(0.7, 1.4)
    squares = np.sin(np.pi * along / feature) * np.sin(np.pi * across / (feature * stretch))
    return np.asarray(np.tanh(6 * squares).astype(np.float32) + 0.6 * _noise(rng, n, 1.5 * feature), np.float32)


def _blobs(rng: np.random.Generator, n: int, feature: float) -> Field:
    return np.asarray(np.tanh(np.float32(rng.uniform(4, 12)) * _noise(rng, n, feature)), np.float32)


def _gradient(rng: np.random.Generator, n: int, feature: float) -> Field:
    along, _ = _grid(rng, n)
    ramp = np.abs((along / (6 * feature)) % 2 - 1)
    return np.asarray((2 * ramp + 0.8 * _noise(rng, n, feature)), np.float32)


def _cells(rng: np.random.Generator, n: int, feature: float) -> Field:
    """Voronoi cells of even shades."""
    count = max(4, int((n / feature) ** 2))
    seeds = np.full((n, n), 255, np.uint8)
    seeds[rng.integers(0, n, count), rng.integers(0, n, count)] = 0
    _, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    shades = rng.uniform(-1, 1, count + 2).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(shades[labels], (3, 3), 0), np.float32)


def _dots(rng: np.random.Generator, n: int, feature: float) -> Field:
    field = np.zeros((n, n), np.float32)
    for _ in range(int(1.2 * (n / feature) ** 2) + 4):
        x, y = rng.integers(0, n, 2).tolist()
        radius = max(1, round(feature * rng.uniform(0.25, 0.65)))
        cv2.circle(field, (x, y), radius, (rng.uniform(-1, 1),), -1, cv2.LINE_AA)
    return field


def _ripples(rng: np.random.Generator, n: int, feature: float) -> Field:
    """Rings around several centres, interfering."""
    y, x = np.mgrid[0:n, 0:n].astype(np.float32)
    centres = rng.uniform(-0.3 * n, 1.3 * n, (4, 2))
    waves = [np.sin(np.pi * np.hypot(x - cx, y - cy) / (feature * rng.uniform(0.8, 1.6))) for cx, cy in centres]
    return np.asarray(np.sum(waves, axis=0, dtype=np.float32), np.float32)


def _bricks(rng: np.random.Generator, n: int, feature: float) -> Field:
    along, across = _grid(rng, n)
    row = np.floor(across / feature)
    column = np.floor(along / (2 * feature) + 0.5 * (row % 2))
    shades = rng.uniform(-1, 1, (64, 64)).astype(np.float32)
    field = shades[row.astype(int) % 64, column.astype(int) % 64]
    return np.asarray(cv2.GaussianBlur(field, (3, 3), 0), np.float32)


def _scratches(rng: np.random.Generator, n: int, feature: float) -> Field:
    field = np.zeros((n, n), np.float32)
    for _ in range(int(2 * (n / feature) ** 2) + 6):
        x, y = rng.uniform(0, n, 2)
        angle, length = rng.uniform(0, np.pi), feature * rng.uniform(0.7, 2)
        end = (round(x + length * np.cos(angle)), round(y + length * np.sin(angle)))
        thickness = max(1, round(feature * rng.uniform(0.15, 0.4)))
        cv2.line(field, (round(x), round(y)), end, (rng.uniform(-1, 1),), thickness, cv2.LINE_AA)
    return field


FAMILIES: dict[Split, tuple[Family, ...]] = {
    "train": (_octaves, _stripes, _checks, _blobs, _gradient),
    "evaluation": (_cells, _dots, _ripples, _bricks, _scratches),
}
