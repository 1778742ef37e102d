"""Brings frames to their short side: each resizer is named after the pipeline that it reproduces."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from tubelet.spec.pipeline import Resize

__all__ = ["resize_frame", "resized_size"]

_BAND = 32
"""Output rows that are computed together: few enough for the processor's cache."""

_Axis = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]
_Pixels = NDArray[np.uint8]


def resized_size(resize: Resize, *, height: int, width: int, num_crops: int) -> tuple[int, int]:
    """Size of a frame after its resize: the short side as the protocol has it, the long one rounded down.

    ``pyslowfast`` multiplies the rounded quotient of the sides, and so may lose a pixel where the others do not.

    Args:
        resize: the rule.
        height: of the upright frame, in pixels.
        width: of the upright frame, in pixels.
        num_crops: R of the protocol; a short side of its own may belong to three.

    Returns:
        ``(height, width)``.
    """
    short, long = sorted((height, width))
    wanted = resize.short_side(num_crops)
    other = long if short == wanted else max(wanted, _LONG_SIDES[resize.kind](short, long, wanted))
    return (wanted, other) if height <= width else (other, wanted)


def _by_integers(short: int, long: int, wanted: int) -> int:
    return long * wanted // short


def _by_quotient(short: int, long: int, wanted: int) -> int:
    return math.floor(long / short * wanted)


_LONG_SIDES: dict[str, Callable[[int, int, int], int]] = {
    "scenic": _by_integers,
    "pyslowfast": _by_quotient,
    "gluonmm": _by_integers,
}


def resize_frame(resize: Resize, frame: _Pixels, *, size: tuple[int, int] | None = None) -> _Pixels:
    """Resizes one frame, bilinear with half-pixel centres and no antialias; one that has the size already is returned.

    ``scenic``: in float32, as ``a + (b - a) * w`` along x and then along y, cut off to bytes (TensorFlow
    ``ResizeBilinear`` and a cast); equal bytes.
    ``pyslowfast``: in float32, rounded to bytes. The pipeline resizes frames that are normalised already, which
    commutes with the resize (PyTorch ``interpolate`` without ``align_corners``): ours differ by the rounding, half a
    level.
    ``gluonmm``: OpenCV's ``INTER_LINEAR`` on bytes; equal bytes. GluonCV's I3D takes it too: its pipeline has the
    scaler of its video reader, which nothing else reproduces.

    Args:
        resize: the rule.
        frame: uint8 ``[h, w, 3]``, RGB.
        size: ``(height, width)`` wanted; None: `resized_size` of this frame for one crop.

    Returns:
        uint8 ``[height, width, 3]``.
    """
    height, width = frame.shape[:2]
    wanted = resized_size(resize, height=height, width=width, num_crops=1) if size is None else size
    if wanted == (height, width):
        return frame
    return _RESIZERS[resize.kind](frame, wanted)


def _resize_scenic(frame: _Pixels, size: tuple[int, int]) -> _Pixels:
    height, width = size
    columns, x_weight = _column_table(frame.shape[1], width)
    top, bottom, y_weight = _axis_table(frame.shape[0], height)
    out = np.empty((height, width * 3), dtype=np.uint8)
    for begin in range(0, height, _BAND):
        band = slice(begin, begin + _BAND)
        rows, position = np.unique((top[band], bottom[band]), return_inverse=True)
        upper, lower = position.reshape(2, -1)
        sides = frame[rows].take(columns, axis=1).reshape(len(rows), 2, width * 3)
        across = np.subtract(sides[:, 1], sides[:, 0], dtype=np.float32)
        across *= x_weight
        across += sides[:, 0]
        above, down = across[upper], across[lower]
        down -= above
        down *= y_weight[band, None]
        down += above
        out[band] = down
    return out.reshape(height, width, 3)


def _resize_pyslowfast(frame: _Pixels, size: tuple[int, int]) -> _Pixels:
    resized = cv2.resize(frame.astype(np.float32, order="C"), size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.rint(resized).astype(np.uint8)


def _resize_gluonmm(frame: _Pixels, size: tuple[int, int]) -> _Pixels:
    resized = cv2.resize(np.ascontiguousarray(frame), size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.uint8, copy=False)


_RESIZERS: dict[str, Callable[[_Pixels, tuple[int, int]], _Pixels]] = {
    "scenic": _resize_scenic,
    "pyslowfast": _resize_pyslowfast,
    "gluonmm": _resize_gluonmm,
}
"""By the resize's kind."""


@lru_cache(maxsize=256)
def _axis_table(size_in: int, size_out: int) -> _Axis:
    """For each output pixel of one axis: the two source pixels, and the weight of the second."""
    scale = np.float32(size_in) / np.float32(size_out)
    position = (np.arange(size_out, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(position)
    first = np.maximum(floor, 0).astype(np.intp)
    second = np.minimum(np.ceil(position), size_in - 1).astype(np.intp)
    return first, second, position - floor


@lru_cache(maxsize=256)
def _column_table(size_in: int, size_out: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Source columns, all left ones and then all right ones, and the weight of the right one for each byte of a row."""
    left, right, weight = _axis_table(size_in, size_out)
    return np.concatenate((left, right)), np.repeat(weight, 3)
