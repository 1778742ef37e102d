"""From the times of a video's frames to the frames, units and clips that a request needs; no pixel is touched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tubelet.preprocess.sampling import UnitPlan, plan_units, resample, sample_clips
from tubelet.preprocess.timeline import segment
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
    frame_times: NDArray[np.float32]
    """``[K, T]``, seconds from the first frame of the video."""
    num_frames: int
    """N, frames of the part that was asked for."""
    has_full_clip: bool
    """Whether at least one clip repeats no frame."""


def plan_views(
    times: NDArray[np.float64], *, interval_s: float, request: Request, contract: Contract, limits: Limits
) -> ViewPlan:
    """Plans the views of a request.

    Args:
        times: float64 ``[N]``, rising, seconds from the first frame of the whole video, N at least 1.
        interval_s: how long the last frame is shown.
        request: protocol and the part of the video.
        contract: the model's sampler and units.
        limits: ``max_units``.

    Returns:
        The plan.

    Raises:
        InvalidRequestError: ``bad_parameter``, no frame lies between ``start_s`` and ``end_s``.
        LimitError: ``too_many_views``, more units than ``max_units``.
    """
    part = segment(times, start_s=request.start_s, end_s=request.end_s)
    if part.start >= part.stop:
        raise InvalidRequestError(
            "bad_parameter",
            f"no frame lies between start_s={request.start_s:g} and end_s={request.end_s:g}: "
            f"the last one is shown at {times[-1]:.3f} s",
        )
    clips = _clips(times[part], interval_s=interval_s, request=request, contract=contract) + part.start
    units = plan_units(clips, unit_frames=contract.geometry.unit_frames)
    num_units = len(units.unit_frames) * request.protocol.num_crops
    if num_units > limits.max_units:
        raise LimitError(
            "too_many_views",
            f"protocol {request.protocol.name} needs {num_units} units of this video, max_units is {limits.max_units}",
        )
    return ViewPlan(
        units=units,
        frame_times=times[clips].astype(np.float32),
        num_frames=part.stop - part.start,
        has_full_clip=any(len(np.unique(clip)) == len(clip) for clip in clips),
    )


def _clips(times: NDArray[np.float64], *, interval_s: float, request: Request, contract: Contract) -> NDArray[np.int64]:
    target_fps = contract.sampler.target_fps
    if target_fps is None or request.protocol.name == "tsn":
        return sample_clips(contract, request.protocol, len(times))
    at_rate = resample(times, interval_s=interval_s, target_fps=target_fps)
    return at_rate[sample_clips(contract, request.protocol, len(at_rate))]
