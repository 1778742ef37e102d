"""Which pixels of a resized frame: crop windows, and the cutting of units."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tubelet.spec.pipeline import Crop

__all__ = ["crop_offsets", "cut_units", "distinct_crops"]

_Offsets = list[tuple[int, int]]


def crop_offsets(crop: Crop, *, height: int, width: int, num_crops: int) -> NDArray[np.int32]:
    """Top left corners of the square windows in a resized frame.

    One crop sits in the middle; three lie along the longer side (x, when the sides are equal), in the middle of the
    other one. Each rule is named after the pipeline that it reproduces:

    ``scenic``: begin, middle, end; one crop's middle is rounded down, that of three up.
    ``pyslowfast``: begin, middle, end; every middle is rounded up.
    ``gluonmm``: begin, end, middle, where the end is twice the rounded down middle and may miss the last pixel; one
    crop's middle is rounded to the nearest even number.
    ``gluoncv_i3d``: begin, middle, end; every middle is rounded down.

    Args:
        crop: the rule and the window's side S.
        height: of the resized frame.
        width: of the resized frame.
        num_crops: R, 1 or 3.

    Returns:
        int32 ``[R, 2]``, ``(y, x)``.
    """
    slack_y, slack_x = height - crop.size_px, width - crop.size_px
    one, three = _CROPPERS[crop.kind]
    return np.array((one if num_crops == 1 else three)(slack_y, slack_x), dtype=np.int32)


def distinct_crops(crops: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
    """Leaves one of crops that are all the same window, as those of a square frame are whose side is the crop's.

    Args:
        crops: int32 ``[R, 2]``.

    Returns:
        The crops that have to be encoded, and how many views of a clip each of them stands for.
    """
    return (crops[:1], len(crops)) if (crops == crops[0]).all() else (crops, 1)


def _one_down(slack_y: int, slack_x: int) -> _Offsets:
    return [(slack_y // 2, slack_x // 2)]


def _one_up(slack_y: int, slack_x: int) -> _Offsets:
    return [(_half_up(slack_y), _half_up(slack_x))]


def _one_even(slack_y: int, slack_x: int) -> _Offsets:
    return [(round(slack_y / 2), round(slack_x / 2))]


def _three_up(slack_y: int, slack_x: int) -> _Offsets:
    short, long = sorted((slack_y, slack_x))
    return _spread((0, _half_up(long), long), across=_half_up(short), along_y=slack_y > slack_x)


def _three_down(slack_y: int, slack_x: int) -> _Offsets:
    short, long = sorted((slack_y, slack_x))
    return _spread((0, long // 2, long), across=short // 2, along_y=slack_y > slack_x)


def _three_by_step(slack_y: int, slack_x: int) -> _Offsets:
    short, long = sorted((slack_y, slack_x))
    step = long // 2
    return _spread((0, 2 * step, step), across=short // 2, along_y=slack_y > slack_x)


def _spread(along: Sequence[int], *, across: int, along_y: bool) -> _Offsets:
    return [(offset, across) if along_y else (across, offset) for offset in along]


def _half_up(slack: int) -> int:
    return -(-slack // 2)


_Cropper = Callable[[int, int], _Offsets]
_CROPPERS: dict[str, tuple[_Cropper, _Cropper]] = {
    "scenic": (_one_down, _three_up),
    "pyslowfast": (_one_up, _three_up),
    "gluonmm": (_one_even, _three_by_step),
    "gluoncv_i3d": (_one_down, _three_down),
}
"""By the crop's kind: one crop, three crops."""


def cut_units(
    frames: NDArray[np.uint8], unit_frames: NDArray[np.int32], crops: NDArray[np.int32], *, size_px: int
) -> NDArray[np.uint8]:
    """Cuts the encoder's inputs out of resized frames.

    Views are clip-major throughout, here and in VIEW_LOGITS: crop r of clip k is view ``k * R + r``. (scenic and
    gluonmm order theirs crop-major; no aggregation sees the difference.)

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
