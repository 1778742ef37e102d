"""When each frame of a video is shown, and which frames lie in the part that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["FALLBACK_FPS", "frame_interval", "frame_times", "segment"]

FALLBACK_FPS = Fraction(25)
"""Rate of a video that has neither usable time stamps nor a usable rate: what FFmpeg assumes of raw streams."""

_MAX_FPS = 1000


def frame_times(
    pts: Sequence[int | None], *, time_base: Fraction, rate: Fraction | None
) -> tuple[NDArray[np.float64], bool]:
    """Times of frames, from their time stamps, or from their numbers where a stamp is missing or does not rise.

    Args:
        pts: N time stamps in ticks, in the order of the frames, N at least 1.
        time_base: seconds of a tick.
        rate: frames per second as the header has it.

    Returns:
        float64 ``[N]``, strictly rising seconds that begin with 0, and whether they come from the time stamps.
    """
    stamps = [stamp for stamp in pts if stamp is not None]
    if len(stamps) == len(pts):
        ticks = np.array(stamps, dtype=np.float64)
        if np.all(np.diff(ticks) > 0):
            return (ticks - ticks[0]) * float(time_base), True
    fps = rate if rate is not None and 0 < rate <= _MAX_FPS else FALLBACK_FPS
    return np.arange(len(pts), dtype=np.float64) / float(fps), False


def frame_interval(times: NDArray[np.float64], *, rate: Fraction | None) -> float:
    """How long one frame is shown, in seconds: the median of the gaps, or the header's rate for a single frame."""
    if len(times) > 1:
        return float(np.median(np.diff(times)))
    return float(1 / (rate if rate is not None and 0 < rate <= _MAX_FPS else FALLBACK_FPS))


def segment(times: NDArray[np.float64], *, start_s: float, end_s: float) -> slice:
    """Frames with ``start_s <= time < end_s``; may be empty."""
    first, end = np.searchsorted(times, (start_s, end_s), side="left")
    return slice(int(first), int(end))
