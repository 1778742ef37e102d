"""Which frames of a video make a clip, and which distinct units make the clips.

Everything here is integers in, integers out; no pixel is touched. Samplers are named after the pipeline that they
reproduce, and look at a video as N frames numbered from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tubelet.spec.manifest import Contract, Sampler
from tubelet.spec.protocol import Protocol

__all__ = ["UnitPlan", "plan_units", "resample", "sample_clips", "scenic_clips", "tsn_clips"]


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """What has to be decoded and encoded for a set of clips: each frame once, each distinct unit once."""

    frames: NDArray[np.int64]
    """``[F]``, the distinct source frames, rising."""
    unit_frames: NDArray[np.int32]
    """``[U, t]``, positions in ``frames``; no two rows are equal."""
    clip_units: NDArray[np.int32]
    """``[K, n]``, rows of ``unit_frames``: ``frames[unit_frames[clip_units]]`` are the clips again."""


def scenic_clips(num_frames: int, *, clip_frames: int, stride: int, num_clips: int) -> NDArray[np.int64]:
    """Clips of scenic's test pipeline: the middle one, or evenly spaced ones from the first frame to the end.

    A video that is too short starts again from its first frame. The spacing is TensorFlow's ``linspace`` in float32,
    cut off to integers (DMVR ``processors.sample_linspace_sequence`` and ``sample_sequence``).

    Args:
        num_frames: N, frames of the video, at least 1.
        clip_frames: T, frames of a clip.
        stride: source frames from one frame of a clip to the next.
        num_clips: K.

    Returns:
        int64 ``[K, T]``, frame indices below N.
    """
    slack = max(0, num_frames - clip_frames * stride)
    if num_clips == 1:
        starts = np.array([slack // 2], dtype=np.int64)
    else:
        step = np.float32(slack) / np.float32(num_clips - 1)
        spaced = step * np.arange(num_clips, dtype=np.float32)
        spaced[-1] = slack
        starts = spaced.astype(np.int64)
    within = stride * np.arange(clip_frames, dtype=np.int64)
    return (starts[:, None] + within) % num_frames


def tsn_clips(num_frames: int, *, clip_frames: int) -> NDArray[np.int64]:
    """One clip spread over the whole video: the middle frame of each of T equal segments.

    ``floor(N / T * (i + 0.5))``, computed in integers. Videos with fewer than T frames repeat frames.

    Args:
        num_frames: N, frames of the video, at least 1.
        clip_frames: T, frames of the clip.

    Returns:
        int64 ``[1, T]``, rising frame indices below N.
    """
    segment = np.arange(clip_frames, dtype=np.int64)
    return (num_frames * (2 * segment + 1) // (2 * clip_frames))[None]


def _scenic(sampler: Sampler, num_clips: int, num_frames: int) -> NDArray[np.int64]:
    return scenic_clips(num_frames, clip_frames=sampler.num_frames, stride=sampler.stride, num_clips=num_clips)


_SAMPLERS: dict[str, Callable[[Sampler, int, int], NDArray[np.int64]]] = {"scenic": _scenic}


def sample_clips(contract: Contract, protocol: Protocol, num_frames: int) -> NDArray[np.int64]:
    """Clips of a video for a model and a protocol.

    Args:
        contract: names the sampler and its numbers.
        protocol: ``tsn``, or clips x crops, of which the clips count here.
        num_frames: N, frames of the video (at the sampler's ``target_fps`` where it has one), at least 1.

    Returns:
        int64 ``[K, T]``, frame indices below N.
    """
    sampler = contract.sampler
    if protocol.name == "tsn":
        return tsn_clips(num_frames, clip_frames=sampler.num_frames)
    return _SAMPLERS[sampler.kind](sampler, protocol.num_clips, num_frames)


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
