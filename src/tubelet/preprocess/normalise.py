"""Bytes to the floats that a network was trained on; written once, and the same in every graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tubelet.spec.pipeline import Normalisation

__all__ = ["normalise"]


def normalise(normalisation: Normalisation, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Computes ``(x * scale - mean) / std`` per channel, in float32 throughout.

    scenic's ``x * (2 / 255) - 1`` is scale 2/255, mean 1, std 1.

    Args:
        normalisation: scale, mean and std, the latter two in the order R, G, B.
        pixels: uint8 ``[..., 3]``, RGB.

    Returns:
        float32 of the same shape.
    """
    mean = np.asarray(normalisation.mean, dtype=np.float32)
    std = np.asarray(normalisation.std, dtype=np.float32)
    return (pixels.astype(np.float32) * np.float32(normalisation.scale) - mean) / std
