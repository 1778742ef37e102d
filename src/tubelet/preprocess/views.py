"""From the times of a video's frames to the frames, units and clips that a request needs; no pixel is touched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tubelet.preprocess.sampling import UnitPlan, plan_units, sample_clips
from tubelet.preprocess.timeline import VideoClock, segment
from tubelet.spec.errors import InvalidRequestError, LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.request import Request

__all__ = ["ViewPlan", "plan_views"]


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """What a request needs of one video."""

    units: UnitPlan
    """Its ``frames`` are numbers of frames in the whole video."""
    clip_positions: NDArray[np.int32]
    """``[K, n]``, where the model is told that each unit's first frame stood; a part of a video is a video of its own,
    whose first frame stands at 0."""
    frame_times: NDArray[np.float32]
    """``[K, T]``, seconds from the first frame of the video."""
    clip_spans: NDArray[np.float32]
    """``[K, 2]``, from when to when each clip's frames are shown, in the same seconds."""
    num_frames: int
    """N, frames of the part that was asked for."""
    has_full_clip: bool
    """Whether at least one clip repeats no frame."""


def plan_views(clock: VideoClock, *, request: Request, contract: Contract, limits: Limits) -> ViewPlan:
    """Plans the views of a request.

    Args:
        clock: of the whole video.
        request: protocol and the part of the video.
        contract: the model's sampler and units.
        limits: ``max_units``.

    Returns:
        The plan.

    Raises:
        InvalidRequestError: ``bad_parameter``, no frame lies between ``start_s`` and ``end_s``.
        LimitError: ``too_many_views``, more units than ``max_units``.
    """
    part = segment(clock.times, start_s=request.start_s, end_s=request.end_s)
    if part.start >= part.stop:
        raise InvalidRequestError(
            "bad_parameter",
            f"no frame lies between start_s={request.start_s:g} and end_s={request.end_s:g}: "
            f"the last one is shown at {clock.times[-1]:.3f} s",
        )
    clips = sample_clips(contract, request.protocol, clock.part(part))
    frames = clips.frames + part.start
    unit_frames = contract.geometry.unit_frames
    units = plan_units(frames, unit_frames=unit_frames)
    num_units = len(units.unit_frames) * request.protocol.num_crops
    if num_units > limits.max_units:
        raise LimitError(
            "too_many_views",
            f"protocol {request.protocol.name} needs {num_units} units of this video, max_units is {limits.max_units}",
        )
    return ViewPlan(
        units=units,
        clip_positions=clips.positions[:, ::unit_frames].astype(np.int32),
        frame_times=clock.times[frames].astype(np.float32),
        clip_spans=_spans(clock, frames).astype(np.float32),
        num_frames=part.stop - part.start,
        has_full_clip=any(len(np.unique(clip)) == len(clip) for clip in frames),
    )


def _spans(clock: VideoClock, clips: NDArray[np.int64]) -> NDArray[np.float64]:
    """``[K, 2]``: a frame is shown until the next one of the whole video, whatever part of it was asked for.

    A clip of a short video may start again from its first frame: the last frame need not be the latest.
    """
    ends = np.append(clock.times[1:], clock.times[-1] + clock.interval_s)
    return np.stack([clock.times[clips.min(axis=1)], ends[clips.max(axis=1)]], axis=1)
