"""The way of a video to what the encoder's step needs: frames, units, clips, crops."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tubelet.preprocess.container import Source, open_video
from tubelet.preprocess.decode import Reading, read_frames
from tubelet.preprocess.decoders import PYAV, FrameDecoder
from tubelet.preprocess.geometry import crop_offsets, distinct_crops
from tubelet.preprocess.guard import Guard
from tubelet.preprocess.store import FrameStore
from tubelet.preprocess.timeline import VideoClock, constant_clock
from tubelet.preprocess.views import ViewPlan, plan_views
from tubelet.spec.errors import InvalidRequestError, InvalidVideoError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.request import Request

__all__ = ["Prepared", "prepare_frames", "prepare_video", "read_video"]

_USABLE_PART = 0.8
"""Part of the claimed duration that makes a damaged video worth an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A video, ready to be cut into units."""

    frames: NDArray[np.uint8]
    """``[F, h, w, 3]``, RGB: the distinct frames that are needed, resized, in time order; ``[0, h, w, 3]`` where a
    store handed them on as they came."""
    unit_frames: NDArray[np.int32]
    """``[U, t]``, indices into ``frames``."""
    clip_units: NDArray[np.int32]
    """``[K, n]``, indices of units; each row R times, one after the other, where all crops are one window."""
    clip_positions: NDArray[np.int32]
    """As ``clip_units``, where the model is told that each unit's first frame stood."""
    crops: NDArray[np.int32]
    """``[R, 2]``, ``(y, x)`` in ``frames``; ``[1, 2]`` where all are one window, which is encoded once."""
    frame_times: NDArray[np.float32]
    """``[K, T]``, seconds from the first frame of the video."""
    clip_spans: NDArray[np.float32]
    """``[K, 2]``, when each clip begins and ends, as ``frame_times``."""
    duration_s: float
    """Of the whole video, whatever part was asked for."""
    num_frames: int
    """N, frames of the video, or of the part of it that was asked for."""
    frames_decoded: int
    """Frames that the decoder delivered."""
    decoder: str
    """As `tubelet.preprocess.decode.Reading`; empty where nothing was decoded."""
    refusal: str
    """As `tubelet.preprocess.decode.Reading`."""
    warnings: tuple[str, ...]
    """What the caller should know; each begins with a stable word: ``colour``, ``damaged``, ``repeated``,
    ``rotation``, ``size``, ``streams`` or ``timestamps``."""
    milliseconds: dict[str, float]
    """Where the time went: ``decode`` (reading, decoding, conversion to RGB) and ``resize``."""


def prepare_video(
    video: bytes,
    request: Request,
    contract: Contract,
    limits: Limits,
    *,
    deadline: float = math.inf,
    decoder: FrameDecoder = PYAV,
) -> Prepared:
    """Decodes of a video what a model needs for a request.

    Args:
        video: the encoded bytes.
        request: protocol and the part of the video.
        contract: sampler, resize and crop of the model.
        limits: what the request may cost; held while the work is done.
        deadline: value of ``time.monotonic()`` after which nobody waits for the answer.
        decoder: what decodes.

    Returns:
        The frames that are needed, and how units, clips and crops are made of them.

    Raises:
        InvalidVideoError: nothing usable comes out of these bytes.
        InvalidRequestError: ``bad_parameter``, the part that was asked for holds no frame.
        LimitError: a limit was exceeded.
        DeadlineError: the request's time is over.
    """
    store = FrameStore(contract.resize, request.protocol.num_crops)
    return read_video(video, request, contract, Guard(limits, deadline), store, decoder=decoder)


def read_video(
    video: bytes,
    request: Request,
    contract: Contract,
    guard: Guard,
    store: FrameStore,
    *,
    decoder: FrameDecoder = PYAV,
) -> Prepared:
    """As `prepare_video`, with a store that may hand frames on as they come.

    It gets each frame that is needed once; of videos that are not what their packets promise not always in time order,
    and sometimes one that is not needed.
    """
    guard.check_bytes(len(video))
    with decoder.open(video, guard) as source:
        wanted = _estimate(source, request, contract, guard)
        store.expect(wanted)
        reading = decoder.read_frames(source, guard, wanted=wanted, take=store.take, restart=store.restart)
        if not reading.pts:
            raise _nothing_decoded(source)
        pts = source.pts if reading.stopped else reading.pts
        clock, stamped = source.clock(pts)
        plan = _plan(clock, request, contract, guard)
        warnings = _judge(source, reading, plan, duration_s=float(clock.times[-1]))
        if not stamped:
            warnings.append("timestamps: missing or not rising; times were counted at the frame rate")
    _read_missing(video, guard, store, plan)
    return _finish(plan, store, contract, request, guard, reading, warnings, duration_s=clock.duration_s)


def prepare_frames(
    frames: NDArray[np.uint8],
    fps: float,
    request: Request,
    contract: Contract,
    limits: Limits,
    *,
    deadline: float = math.inf,
) -> Prepared:
    """As `prepare_video`, from frames that are decoded already.

    Args:
        frames: uint8 ``[N, h, w, 3]``, RGB, upright.
        fps: their rate in frames per second.
        request: protocol and the part of the video.
        contract: sampler, resize and crop of the model.
        limits: what the request may cost.
        deadline: as `prepare_video`.

    Returns:
        As `prepare_video`; no frame was decoded.

    Raises:
        InvalidRequestError: ``bad_input``, a wrong type or shape; ``bad_parameter`` as `prepare_video`.
        InvalidVideoError: ``bad_dimensions``.
        LimitError: a limit was exceeded.
        DeadlineError: the request's time is over.
    """
    guard = Guard(limits, deadline)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InvalidRequestError(
            "bad_input", f"frames of UINT8 [N, h, w, 3] are expected, got {frames.dtype} {list(frames.shape)}"
        )
    if not (math.isfinite(fps) and fps > 0):
        raise InvalidRequestError("bad_input", f"fps must be a positive number, got {fps}")
    num_frames, height, width = frames.shape[:3]
    guard.check_frames(num_frames)
    guard.check_size(width=width, height=height)
    clock = constant_clock(num_frames, fps=fps)
    plan = _plan(clock, request, contract, guard)
    store = FrameStore(contract.resize, request.protocol.num_crops)
    store.expect(plan.units.frames.tolist())
    for number in plan.units.frames.tolist():
        guard.check_time()
        store.add(number, frames[number])
    return _finish(plan, store, contract, request, guard, Reading(decoder=""), [], duration_s=clock.duration_s)


def _estimate(source: Source, request: Request, contract: Contract, guard: Guard) -> frozenset[int]:
    """Frames that will be needed, by the look of the packets; certain only where the source is countable."""
    clock, _ = source.clock(source.pts)
    try:
        return frozenset(_plan(clock, request, contract, guard).units.frames.tolist())
    except InvalidRequestError:
        if source.countable:
            raise
        return frozenset()


def _plan(clock: VideoClock, request: Request, contract: Contract, guard: Guard) -> ViewPlan:
    guard.check_duration(max(float(clock.times[-1]), clock.interval_s))
    return plan_views(clock, request=request, contract=contract, limits=guard.limits)


def _nothing_decoded(source: Source) -> InvalidVideoError:
    if not source.stream.width or not source.stream.height:
        return InvalidVideoError("bad_dimensions", "the video has no size, or one that no decoder takes")
    return InvalidVideoError("no_frames", "no frame of the video could be decoded; it is damaged or protected")


def _judge(source: Source, reading: Reading, plan: ViewPlan, *, duration_s: float) -> list[str]:
    """Says what is odd about a video; raises InvalidVideoError ``truncated`` where too little came out of it."""
    warnings = []
    damage = source.cut
    if reading.num_failed and not damage:
        damage = f"{reading.num_failed} of {source.num_packets} packets could not be decoded"
    if damage:
        claimed_s = source.claimed_s
        if not plan.has_full_clip and (claimed_s is None or duration_s < _USABLE_PART * claimed_s):
            raise InvalidVideoError(
                "truncated",
                f"{damage}; {len(reading.pts)} frames came out, fewer than a full clip; send the whole file",
            )
        warnings.append(f"damaged: {damage}")
    elif source.num_corrupt:
        warnings.append(f"damaged: {source.num_corrupt} of {source.num_packets} packets arrived damaged")
    if reading.num_repaired:
        warnings.append(f"damaged: {reading.num_repaired} frames were repaired by the decoder")
    if not plan.has_full_clip:
        warnings.append(f"repeated: too few frames for a clip, {plan.num_frames} in all; some were repeated")
    if source.num_video_streams > 1:
        warnings.append(f"streams: of {source.num_video_streams} video streams, number {source.stream.index} was taken")
    return warnings


def _read_missing(video: bytes, guard: Guard, store: FrameStore, plan: ViewPlan) -> None:
    """Decodes once more where the packets had promised another number of frames than came out."""
    missing = frozenset(plan.units.frames.tolist()) - store.numbers
    if not missing:
        return
    with open_video(video, guard, may_seek=False) as source:
        read_frames(source, guard, wanted=missing, take=store.take, restart=store.restart)
    if not missing <= store.numbers:
        raise InvalidVideoError("truncated", "the damaged video decodes differently each time; send it undamaged")


def _finish(
    plan: ViewPlan,
    store: FrameStore,
    contract: Contract,
    request: Request,
    guard: Guard,
    reading: Reading,
    warnings: list[str],
    *,
    duration_s: float,
) -> Prepared:
    warnings.extend(f"{word}: {text}" for word, text in store.to_rgb.warnings.items())
    if store.sizes_differ:
        warnings.append("size: the size of the frames changes; all were resized to that of the first one needed")
    elapsed_s = time.monotonic() - guard.started
    frames = store.gather(plan.units.frames)
    height, width = frames.shape[1:3]
    offsets = crop_offsets(contract.crop, height=height, width=width, num_crops=request.protocol.num_crops)
    crops, views_of_each = distinct_crops(offsets)
    return Prepared(
        frames=frames,
        unit_frames=plan.units.unit_frames,
        # View k * R + r stays where it is.
        clip_units=plan.units.clip_units.repeat(views_of_each, axis=0),
        clip_positions=plan.clip_positions.repeat(views_of_each, axis=0),
        crops=crops,
        frame_times=plan.frame_times,
        clip_spans=plan.clip_spans,
        duration_s=duration_s,
        num_frames=plan.num_frames,
        frames_decoded=guard.frames_decoded,
        decoder=reading.decoder,
        refusal=reading.refusal,
        warnings=tuple(warnings),
        milliseconds={"decode": (elapsed_s - store.resize_s) * 1000, "resize": store.resize_s * 1000},
    )
