"""From the clock of a video to clips, and from clips to the distinct frames and units that they are made of.

No pixel is touched. The sampler's kind and the protocol's name say which function decides; nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tubelet.preprocess.pyslowfast import full_video_clip, multi_view_clips
from tubelet.preprocess.samplers import gluoncv_i3d_clips, gluonmm_clips, scenic_clips, tsn_clips
from tubelet.preprocess.timeline import VideoClock
from tubelet.spec.manifest import Contract
from tubelet.spec.pipeline import FullVideo, Sampler
from tubelet.spec.protocol import Protocol

__all__ = ["Clips", "UnitPlan", "plan_units", "resample", "sample_clips"]


@dataclass(frozen=True, slots=True)
class Clips:
    """K clips of T frames."""

    frames: NDArray[np.int64]
    """``[K, T]``, frame indices below N."""
    positions: NDArray[np.int64]
    """``[K, T]``, where a model that asks for it is told that each frame stood: in the video, or in the clip's span."""


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """What has to be decoded and encoded for a set of clips: each frame once, each distinct unit once."""

    frames: NDArray[np.int64]
    """``[F]``, the distinct source frames, rising."""
    unit_frames: NDArray[np.int32]
    """``[U, t]``, positions in ``frames``; no two rows are equal."""
    clip_units: NDArray[np.int32]
    """``[K, n]``, rows of ``unit_frames``: ``frames[unit_frames[clip_units]]`` are the clips again."""


def sample_clips(contract: Contract, protocol: Protocol, clock: VideoClock) -> Clips:
    """Clips of a video for a model and a protocol.

    ``tsn`` and ``full`` are one clip over all frames, whatever their rate; ``full64`` is ``full`` with another number
    of frames. Clips x crops are the sampler's, which counts in the video at ``target_fps`` where it has one;
    ``pyslowfast`` has it in its formula.

    Args:
        contract: names the sampler and its numbers, and those of ``full``.
        protocol: of the contract; of clips x crops the clips count here.
        clock: of the video, or of the part that was asked for.

    Returns:
        Clips; both arrays count from the clock's first frame.
    """
    sampler = contract.sampler
    if protocol.name == "tsn":
        frames = tsn_clips(clock.num_frames, clip_frames=sampler.num_frames)
        return Clips(frames, frames)
    if protocol.is_full and contract.full_video is not None:
        return _full(contract.full_video, protocol.num_frames or contract.full_video.num_frames, clock)
    return _SAMPLERS[sampler.kind](sampler, protocol.num_clips, clock)


def _full(full_video: FullVideo, num_frames: int, clock: VideoClock) -> Clips:
    frames = full_video_clip(clock, clip_frames=num_frames, span_s=full_video.span_s)
    return Clips(frames, frames)


def _pyslowfast(sampler: Sampler, num_clips: int, clock: VideoClock) -> Clips:
    frames, positions = multi_view_clips(
        clock,
        clip_frames=sampler.num_frames,
        stride=sampler.stride,
        target_fps=sampler.target_fps or clock.fps,
        num_clips=num_clips,
    )
    return Clips(frames, positions)


def _counting(clips: Callable[..., NDArray[np.int64]]) -> Callable[[Sampler, int, VideoClock], Clips]:
    """A sampler out of a function that counts frames, those of the video at the target rate where there is one."""

    def sample(sampler: Sampler, num_clips: int, clock: VideoClock) -> Clips:
        source = np.arange(clock.num_frames)
        if sampler.target_fps is not None:
            source = resample(clock.times, interval_s=clock.interval_s, target_fps=sampler.target_fps)
        numbers = clips(len(source), clip_frames=sampler.num_frames, stride=sampler.stride, num_clips=num_clips)
        return Clips(source[numbers], source[numbers])

    return sample


_SAMPLERS: dict[str, Callable[[Sampler, int, VideoClock], Clips]] = {
    "scenic": _counting(scenic_clips),
    "pyslowfast": _pyslowfast,
    "gluonmm": _counting(gluonmm_clips),
    "gluoncv_i3d": _counting(gluoncv_i3d_clips),
}
"""By the sampler's kind."""


def resample(times: NDArray[np.float64], *, interval_s: float, target_fps: float) -> NDArray[np.int64]:
    """Frames of a video as they would stand at another, constant frame rate.

    Output frame j is the last frame whose time, rounded to the nearest output tick, is at most j: what FFmpeg's
    ``fps`` filter does with its default rounding when reference data sets are extracted at a fixed rate.

    Args:
        times: float64 ``[N]``, rising, seconds from the first frame, N at least 1.
        interval_s: how long the last frame is shown.
        target_fps: the rate wanted.

    Returns:
        int64 ``[M]``, M at least 1: not falling, source frame of each output frame.
    """
    ticks = np.floor((times - times[0]) * target_fps + 0.5).astype(np.int64)
    end = int(np.floor((times[-1] - times[0] + interval_s) * target_fps + 0.5))
    return np.searchsorted(ticks, np.arange(max(1, end)), side="right") - 1


def plan_units(clips: NDArray[np.int64], *, unit_frames: int) -> UnitPlan:
    """Cuts clips into units and keeps each distinct frame and each distinct unit once.

    Args:
        clips: int64 ``[K, T]``, frame indices.
        unit_frames: t, frames of a unit; divides T.

    Returns:
        The plan, every row of which is used; units are in the order of their frames.
    """
    frames, positions = np.unique(clips, return_inverse=True)
    num_clips = clips.shape[0]
    units, rows = np.unique(positions.reshape(-1, unit_frames), axis=0, return_inverse=True)
    return UnitPlan(
        frames=frames.astype(np.int64),
        unit_frames=units.astype(np.int32),
        clip_units=rows.reshape(num_clips, -1).astype(np.int32),
    )
