"""Weights to start from, with which motion is learnt in minutes.

From a random start a small network spends most of its training on finding out that the time axis matters and where a
patch lies. Both are given to it, as a start only; training changes every weight.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tubelet.models.vivit import FactorisedEncoder

__all__ = ["drifting_gabors", "gratings", "initialise", "smooth_positions"]

POSITION_AMPLITUDE = 0.5


def initialise(model: FactorisedEncoder, *, seed: int) -> None:
    """Sets the tubelet kernels to `drifting_gabors` and the spatial positions to `smooth_positions`."""
    rng = np.random.default_rng(seed)
    sizes = model.sizes
    kernels = drifting_gabors(rng, width=sizes.width, frames=sizes.tubelet_frames, patch_px=sizes.patch_px)
    positions = smooth_positions(rng, width=sizes.width, grid=sizes.crop_px // sizes.patch_px)
    with torch.no_grad():
        model.embedding.weight.copy_(torch.from_numpy(kernels))
        if model.embedding.bias is not None:
            nn.init.zeros_(model.embedding.bias)
        model.spatial.positions[0, 1:].copy_(torch.from_numpy(positions))


def drifting_gabors(rng: np.random.Generator, *, width: int, frames: int, patch_px: int) -> NDArray[np.float32]:
    """Pairs of gratings in quadrature that drift at random speeds in random directions.

    The sum of the squares of a pair is the motion energy of Adelson and Bergen, "Spatiotemporal energy models for the
    perception of motion" (1985), large where the picture moves as the grating does.

    Returns:
        float32 `[width, 3, frames, patch_px, patch_px]`, each kernel of mean 0 and length 1.
    """
    pairs = width // 2
    direction = rng.uniform(0, 2 * np.pi, pairs)
    wavelength = rng.uniform(0.6, 1.75, pairs) * patch_px
    drift_px = rng.uniform(0, 0.44, pairs) * patch_px  # per frame
    wave = (2 * np.pi / wavelength)[:, None, None, None]
    time = (np.arange(frames) - (frames - 1) / 2)[:, None, None]
    y, x = np.mgrid[0:patch_px, 0:patch_px] - (patch_px - 1) / 2
    along = np.multiply.outer(np.cos(direction), x) + np.multiply.outer(np.sin(direction), y)  # [pairs, p, p]
    phase = wave * (along[:, None] - drift_px[:, None, None, None] * time)  # [pairs, t, p, p]
    envelope = np.exp(-(x**2 + y**2) / (2 * (patch_px / 3) ** 2))
    grey = np.stack([np.cos(phase), np.sin(phase)], axis=1).reshape(2 * pairs, frames, patch_px, patch_px) * envelope
    grey -= grey.mean(axis=(1, 2, 3), keepdims=True)
    colour = np.repeat(np.abs(rng.normal(1, 0.4, (pairs, 3))), 2, axis=0)
    kernels = colour[:, :, None, None, None] * grey[:, None]
    kernels /= np.sqrt((kernels**2).sum(axis=(1, 2, 3, 4), keepdims=True))
    return np.asarray(kernels, np.float32)


def smooth_positions(rng: np.random.Generator, *, width: int, grid: int) -> NDArray[np.float32]:
    """Plane waves over the grid of patches, so that neighbours have similar rows.

    Returns:
        float32 `[grid * grid, width]`, raster order.
    """
    y, x = np.mgrid[0:grid, 0:grid].reshape(2, -1, 1) / max(1, grid - 1) * 2 - 1
    wave_y, wave_x = rng.normal(0, 1.5, (2, width))
    phase = rng.uniform(0, 2 * np.pi, width)
    return np.asarray((POSITION_AMPLITUDE * np.sin(wave_y * y + wave_x * x + phase)), np.float32)


def gratings(count: int, *, wavelength_px: float, patch_px: int) -> NDArray[np.float32]:
    """Still gratings at even angles from the x axis, each as a cosine and a sine.

    Returns:
        float32 `[2 * count, 3, patch_px, patch_px]`, each kernel of mean 0 and length 1, alike in all colours.
    """
    y, x = np.mgrid[0:patch_px, 0:patch_px] - (patch_px - 1) / 2
    angles = np.pi / count * np.arange(count)[:, None, None]
    phase = 2 * np.pi / wavelength_px * (np.cos(angles) * x + np.sin(angles) * y)
    envelope = np.exp(-(x**2 + y**2) / (2 * (patch_px / 3) ** 2))
    grey = np.stack([np.cos(phase), np.sin(phase)], axis=1).reshape(2 * count, patch_px, patch_px) * envelope
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    kernels = np.repeat(grey[:, None], 3, axis=1)
    kernels /= np.sqrt((kernels**2).sum(axis=(1, 2, 3), keepdims=True))
    return np.asarray(kernels, np.float32)
