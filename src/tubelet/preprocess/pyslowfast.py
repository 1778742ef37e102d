"""Frames of PySlowFast's test pipeline as VTN uses it: several clips of one video, or one clip over the whole of it.

Reproduces ``slowfast/datasets/decoder.py`` of VTN's repository with its PyAV decoder: also the clip's span in time
stamps, which is decoded by itself, so that the model is told positions that begin anew in each clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tubelet.preprocess.timeline import VideoClock

__all__ = ["ClipBounds", "clip_bounds", "decoded_spans", "full_video_clip", "linspace", "multi_view_clips"]


@dataclass(frozen=True, slots=True)
class ClipBounds:
    """Where clips begin and end, in fractions of frames; both ends belong to the clip."""

    start: NDArray[np.float64]
    """``[K]``."""
    end: NDArray[np.float64]
    """``[K]``; beyond the video where that is too short."""


def multi_view_clips(
    clock: VideoClock, *, clip_frames: int, stride: int, target_fps: float, num_clips: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clips that begin at ``K`` even steps, the last of which leaves the end of the video out.

    Where the container says a duration, each clip's span is decoded by itself, and frames are taken and told to the
    model by their numbers in that span; elsewhere by their numbers in the video. Differs: time stamps count from the
    first frame, so that a file whose stamps begin late is sampled like any other; the reference shifts its spans.

    Args:
        clock: of the video.
        clip_frames: T, frames of a clip.
        stride: frames from one frame of a clip to the next, at ``target_fps``.
        target_fps: a clip lasts ``stride * T / target_fps`` seconds.
        num_clips: K.

    Returns:
        int64 ``[K, T]``, frame indices below N, and int64 ``[K, T]``, positions.
    """
    length = stride * clip_frames / target_fps * clock.fps
    bounds = clip_bounds(clock.num_frames, length=length, num_clips=num_clips)
    if clock.ticks is None:
        frames = _take(linspace(bounds.start, bounds.end, clip_frames), np.full(num_clips, clock.num_frames))
        return frames, frames
    first, count = decoded_spans(clock.ticks, bounds)
    from_zero = clip_bounds(0, length=length, num_clips=num_clips)
    positions = _take(linspace(from_zero.start, from_zero.end, clip_frames), count)
    return first[:, None] + positions, positions


def full_video_clip(clock: VideoClock, *, clip_frames: int, span_s: float | None) -> NDArray[np.int64]:
    """One clip of frames at even steps over the whole video.

    Args:
        clock: of the video.
        clip_frames: T; shorter videos repeat frames.
        span_s: only so many seconds from the start, counted at the average rate; None: all of them.

    Returns:
        int64 ``[1, T]``, frame indices below N, which are the positions too.
    """
    num_frames = clock.num_frames
    # As coded, a video shorter than the span ends one frame beyond its last one.
    end = num_frames - 1 if span_s is None else min(num_frames, span_s * clock.fps - 1)
    return _take(linspace(np.zeros(1), np.array([float(end)]), clip_frames), np.array([num_frames]))


def clip_bounds(num_frames: int, *, length: float, num_clips: int) -> ClipBounds:
    """Where K clips of ``length`` source frames lie in a video of N frames."""
    start = max(num_frames - length, 0) * np.arange(num_clips) / num_clips
    return ClipBounds(start, start + length - 1)


def decoded_spans(ticks: NDArray[np.int64], bounds: ClipBounds) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which frames seeking and decoding delivers for each clip: those between its bounds, and one more after them.

    Args:
        ticks: int64 ``[N + 1]``, rising from 0: time stamps of the frames, and the end of the last one.
        bounds: of K clips.

    Returns:
        int64 ``[K]``, the first frame of each, and int64 ``[K]``, how many there are: one at least.
    """
    stamps, num_frames = ticks[:-1], len(ticks) - 1
    ticks_per_frame = ticks[-1] / num_frames
    start, end = (np.clip(edge * ticks_per_frame, 0, ticks[-1]).astype(np.int64) for edge in (bounds.start, bounds.end))
    first = np.minimum(np.searchsorted(stamps, start, side="left"), num_frames - 1)
    after = np.searchsorted(stamps, end, side="right")
    stop = np.minimum(np.maximum(after, first) + 1, num_frames)
    return first.astype(np.int64), (stop - first).astype(np.int64)


def linspace(start: NDArray[np.float64], end: NDArray[np.float64], num: int) -> NDArray[np.float32]:
    """``torch.linspace`` in float32, row by row: counted from both ends, each step a fused multiply-add.

    Args:
        start: ``[K]``.
        end: ``[K]``.
        num: how many numbers, both ends included.

    Returns:
        float32 ``[K, num]``.
    """
    first, last = (np.asarray(edge, dtype=np.float32)[:, None] for edge in (start, end))
    if num == 1:
        return first
    steps = np.arange(num)
    step = ((last - first) / np.float32(num - 1)).astype(np.float64)  # float64 holds the product of two float32
    from_start, from_end = first + step * steps, last - step * (num - 1 - steps)
    return np.where(steps < num // 2, from_start, from_end).astype(np.float32)


def _take(index: NDArray[np.float32], num_frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cuts indices off to whole frames, of which row k has ``num_frames[k]``."""
    clipped: NDArray[np.int64] = np.clip(index, 0, num_frames[:, None] - 1).astype(np.int64)
    return clipped
