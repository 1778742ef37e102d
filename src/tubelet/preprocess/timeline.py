"""When each frame of a video is shown, and which frames lie in the part that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["FALLBACK_FPS", "VideoClock", "constant_clock", "frame_interval", "frame_times", "segment", "video_clock"]

FALLBACK_FPS = Fraction(25)
"""Rate of a video that has neither usable time stamps nor a usable rate: what FFmpeg assumes of raw streams."""

_MAX_FPS = 1000
_MAX_TICKS = 2**53
"""Beyond it a float64 no longer holds every tick."""
_TICKS_PER_FRAME = 512
"""Of FFmpeg's MP4 files at 25 and 30 frames per second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoClock:
    """All that samplers know of a video, or of a part of it: its N frames, and when they are shown."""

    times: NDArray[np.float64]
    """``[N]``, strictly rising seconds from the first frame of the whole video."""
    interval_s: float
    """How long the last frame is shown."""
    fps: float
    """Average rate in frames per second, as the container's header has it; a part has that of its video."""
    ticks: NDArray[np.int64] | None
    """``[N + 1]``, time stamps in ticks of the stream, counted from the first frame, and the end of the last frame;
    None: the header says no duration, or the stamps are missing or do not rise."""

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.times)

    @property
    def duration_s(self) -> float:
        """From the first frame to the end of the last, in seconds."""
        return float(self.times[-1]) + self.interval_s

    def part(self, frames: slice) -> VideoClock:
        """The clock of a part, which counts its frames and ticks from its own first frame, as a file of its own."""
        ticks = self.ticks
        if ticks is not None:
            ticks = ticks[frames.start : frames.stop + 1] - ticks[frames.start]
        return VideoClock(times=self.times[frames], interval_s=self.interval_s, fps=self.fps, ticks=ticks)


def video_clock(
    pts: Sequence[int | None],
    *,
    time_base: Fraction,
    rate: Fraction | None,
    num_claimed: int,
    duration: int | None,
) -> tuple[VideoClock, bool]:
    """The clock of a whole video.

    Args:
        pts: N time stamps in ticks, in the order of the frames, N at least 1.
        time_base: seconds of a tick.
        rate: average frames per second as the header has it.
        num_claimed: frames as the header has it; 0: it does not say.
        duration: of the stream in ticks, as the header has it; None: it does not say.

    Returns:
        The clock, and whether its times come from the time stamps.
    """
    times, stamped = frame_times(pts, time_base=time_base, rate=rate)
    interval_s = frame_interval(times, rate=rate)
    ticks = _ticks(pts, num_claimed=num_claimed, duration=duration) if stamped and num_claimed and duration else None
    fps = float(_usable(rate) or 1 / interval_s)
    return VideoClock(times=times, interval_s=interval_s, fps=fps, ticks=ticks), stamped


def constant_clock(num_frames: int, *, fps: float) -> VideoClock:
    """The clock of decoded frames at a constant rate: that of an MP4 file which holds them."""
    return VideoClock(
        times=np.arange(num_frames, dtype=np.float64) / fps,
        interval_s=1 / fps,
        fps=fps,
        ticks=_TICKS_PER_FRAME * np.arange(num_frames + 1, dtype=np.int64),
    )


def _ticks(pts: Sequence[int | None], *, num_claimed: int, duration: int) -> NDArray[np.int64] | None:
    """Stamps that rise, from 0, and their end: the header's, where it is of these frames and not absurd."""
    stamps = [stamp for stamp in pts if stamp is not None]
    last = stamps[-1] - stamps[0]
    end = last + max(1, round(last / max(1, len(stamps) - 1)))  # the last frame as long as the others on average
    if num_claimed == len(stamps) and last < duration <= max(2 * last, end):
        end = duration
    if end >= _MAX_TICKS:
        return None
    return np.array([*(stamp - stamps[0] for stamp in stamps), end], dtype=np.int64)


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
    return np.arange(len(pts), dtype=np.float64) / float(_usable(rate) or FALLBACK_FPS), False


def frame_interval(times: NDArray[np.float64], *, rate: Fraction | None) -> float:
    """How long one frame is shown, in seconds: the median of the gaps, or the header's rate for a single frame."""
    if len(times) > 1:
        return float(np.median(np.diff(times)))
    return float(1 / (_usable(rate) or FALLBACK_FPS))


def segment(times: NDArray[np.float64], *, start_s: float, end_s: float) -> slice:
    """Frames with ``start_s <= time < end_s``; may be empty."""
    first, end = np.searchsorted(times, (start_s, end_s), side="left")
    return slice(int(first), int(end))


def _usable(rate: Fraction | None) -> Fraction | None:
    return rate if rate is not None and 0 < rate <= _MAX_FPS else None
