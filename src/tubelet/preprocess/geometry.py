"""Which pixels of a frame: resize to the short side, crop windows, and the cutting of units.

Resizers and crop rules are named after the pipeline that they reproduce, to the last bit of its bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tubelet.spec.manifest import Crop, Resize

__all__ = ["crop_offsets", "cut_units", "resize_frame", "resized_size"]

_BAND = 32
"""Output rows that are computed together: few enough for the processor's cache."""

_Axis = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]


def resized_size(resize: Resize, *, height: int, width: int) -> tuple[int, int]:
    """Size of a frame after its resize: the short side becomes ``short_side_px``, the long one is rounded down.

    Args:
        resize: the rule.
        height: of the upright frame, in pixels.
        width: of the upright frame, in pixels.

    Returns:
        ``(height, width)``.
    """
    short = resize.short_side_px
    return max(short, height * short // width), max(short, width * short // height)


def resize_frame(resize: Resize, frame: NDArray[np.uint8], *, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Resizes one frame.

    ``scenic``: bilinear in float32 with half-pixel centres and no antialias, as ``a + (b - a) * w`` along x and then
    along y, cut off to bytes (TensorFlow ``ResizeBilinear`` and a cast); a frame that has the size already is
    returned as it is.

    Args:
        resize: the rule.
        frame: uint8 ``[h, w, 3]``, RGB.
        size: ``(height, width)`` wanted; None: `resized_size` of this frame.

    Returns:
        uint8 ``[height, width, 3]``.
    """
    height, width = frame.shape[:2]
    wanted = resized_size(resize, height=height, width=width) if size is None else size
    if wanted == (height, width):
        return frame
    return _RESIZERS[resize.kind](frame, wanted)


def _resize_scenic(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
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


_RESIZERS: dict[str, Callable[[NDArray[np.uint8], tuple[int, int]], NDArray[np.uint8]]] = {"scenic": _resize_scenic}


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


def crop_offsets(crop: Crop, *, height: int, width: int, num_crops: int) -> NDArray[np.int32]:
    """Top left corners of the square windows in a resized frame.

    ``scenic``: one crop sits in the middle, rounded down; three lie along the longer side (x, when the sides are
    equal), and their middle is rounded up.

    Args:
        crop: the rule and the window's side S.
        height: of the resized frame.
        width: of the resized frame.
        num_crops: R, 1 or 3.

    Returns:
        int32 ``[R, 2]``, ``(y, x)``.
    """
    return _CROPPERS[crop.kind](height - crop.size_px, width - crop.size_px, num_crops)


def _crops_scenic(slack_y: int, slack_x: int, num_crops: int) -> NDArray[np.int32]:
    if num_crops == 1:
        return np.array([[slack_y // 2, slack_x // 2]], dtype=np.int32)
    middle_y, middle_x = -(-slack_y // 2), -(-slack_x // 2)
    if slack_y > slack_x:
        return np.array([[y, middle_x] for y in (0, middle_y, slack_y)], dtype=np.int32)
    return np.array([[middle_y, x] for x in (0, middle_x, slack_x)], dtype=np.int32)


_CROPPERS: dict[str, Callable[[int, int, int], NDArray[np.int32]]] = {"scenic": _crops_scenic}


def cut_units(
    frames: NDArray[np.uint8], unit_frames: NDArray[np.int32], crops: NDArray[np.int32], *, size_px: int
) -> NDArray[np.uint8]:
    """Cuts the encoder's inputs out of resized frames.

    Args:
        frames: uint8 ``[F, h, w, 3]``.
        unit_frames: int32 ``[U, t]``, indices into ``frames``.
        crops: int32 ``[R, 2]``, ``(y, x)``.
        size_px: S.

    Returns:
        uint8 ``[U * R, t, S, S, 3]``; crop r of unit u is row ``u * R + r``.
    """
    num_units, t = unit_frames.shape
    units = np.empty((num_units, len(crops), t, size_px, size_px, frames.shape[-1]), dtype=frames.dtype)
    for r, (y, x) in enumerate(crops.tolist()):
        units[:, r] = frames[:, y : y + size_px, x : x + size_px][unit_frames]
    return units.reshape(-1, *units.shape[2:])
