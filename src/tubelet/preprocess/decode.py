"""Decodes the packets of a source and hands over the frames that are wanted, upright and in RGB.

Frames are numbered as a pipeline numbers them that decodes everything and counts from 0. A source whose packets can
be counted is read up to the last wanted frame; any other, and any that turns out otherwise, to its end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeAlias

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tubelet.preprocess.container import Source, open_video
from tubelet.preprocess.guard import Guard
from tubelet.preprocess.packets import VideoPacket
from tubelet.preprocess.seeking import SeekIndex, SeekPlan
from tubelet.spec.errors import InvalidVideoError, LimitError

__all__ = ["Decode", "DisagreementError", "Reading", "RgbConverter", "read_frames", "read_parts"]

Decode: TypeAlias = Callable[[VideoPacket], list[VideoFrame]]
"""Gives a packet to a decoder and takes the frames that are done by then."""

_UNSPECIFIED = 2
"""FFmpeg's AVCOL_SPC_UNSPECIFIED: its converter then assumes what most videos are."""


@dataclass(slots=True)
class Reading:
    """What came out of the decoder."""

    pts: list[int | None] = field(default_factory=list)
    """Time stamps of the frames, in the order in which they came."""
    num_failed: int = 0
    """Packets that could not be decoded."""
    num_repaired: int = 0
    """Frames whose decoder had to guess parts of the picture."""
    stopped: bool = False
    """Whether reading stopped before the end, with every wanted frame there and its number certain."""
    decoder: str = "pyav"
    """What decoded: ``pyav`` or ``nvdec``."""
    refusal: str = ""
    """Why the card did not decode, though it was asked to: one of `tubelet.preprocess.nvdec.Refusal`; else empty."""


def read_frames(
    source: Source,
    guard: Guard,
    *,
    wanted: Collection[int],
    take: Callable[[int, VideoFrame], None],
    restart: Callable[[], None],
) -> Reading:
    """Decodes what is wanted of a source.

    Args:
        source: freshly opened; its decoder is used up afterwards.
        guard: clock and limits of the request.
        wanted: numbers of the frames to hand over.
        take: is called with the number and the frame, in rising order.
        restart: is called where reading begins anew; what was taken before is void.

    Returns:
        What was read.

    Raises:
        LimitError: ``too_many_pixels``, ``too_long`` or ``decode_timeout``.
        InvalidVideoError: ``bad_dimensions``.
        DeadlineError: the request's time is over.
    """
    if source.seek_index is None:
        return _read_in_order(source, guard, wanted=wanted, take=take)
    try:
        return read_parts(source, guard, decode=source.stream.codec_context.decode, wanted=wanted, take=take)
    except DisagreementError:
        restart()
    with open_video(source.video, guard, may_seek=False) as again:
        return _read_in_order(again, guard, wanted=wanted, take=take)


class DisagreementError(Exception):
    """Packets and frames are not what they promised; only a decode from the first packet on tells the truth."""


def read_parts(
    source: Source,
    guard: Guard,
    *,
    decode: Decode,
    wanted: Collection[int],
    take: Callable[[int, VideoFrame], None],
) -> Reading:
    """Decodes from start to start, over what nobody wants, until all wanted frames came; believes nothing else.

    Args:
        source: freshly opened, with a seek index.
        guard: as `read_frames`.
        decode: of the decoder of the source's stream, which is flushed at each start.
        wanted: as `read_frames`.
        take: as `read_frames`; what it took is void after an error.

    Raises:
        DisagreementError: packets and frames are not what they promised, or the source has no seek index.
        LimitError: as `read_frames`.
        InvalidVideoError: as `read_frames`.
        DeadlineError: as `read_frames`.
    """
    if source.seek_index is None:
        raise DisagreementError
    reading = Reading(stopped=True)
    follower = _Follower(source.pts, source.seek_index, source.seek_index.plan(wanted))
    with closing(source.packets()) as packets:
        for position, packet in enumerate(packets):
            guard.check_time()
            if not follower.needs(position, packet):
                continue
            if follower.lands():
                source.stream.codec_context.flush_buffers()
            for frame in _decode_sound(packet, decode):
                guard.count_frame()
                guard.check_size(width=frame.width, height=frame.height)
                reading.pts.append(frame.pts)
                number = follower.follow(frame)
                if number in wanted:
                    take(number, frame)
                if follower.is_done:
                    return reading
    raise DisagreementError


@dataclass(slots=True)
class _Follower:
    """Keeps to a plan: which packets are needed next, and which frame is due next."""

    pts: list[int | None]
    """``[N]``, rising."""
    index: SeekIndex
    plan: SeekPlan
    row: int = 0
    """Of the plan: the next frame that is wanted."""
    first: int = 0
    """What comes before it is shown before the packet at which decoding began, and may lack what it needs."""
    due: int = 0
    is_jumping: bool = False

    @property
    def is_done(self) -> bool:
        """Whether all wanted frames came."""
        return self.row == len(self.plan.numbers)

    def needs(self, position: int, packet: VideoPacket) -> bool:
        """Whether a packet is to be decoded.

        Raises:
            DisagreementError: it is not that of the first pass.
        """
        if not packet.size:
            return True
        if position < self.plan.begins[self.row]:
            self.is_jumping = True
            return False
        if packet.pts != self.index.pts[position]:
            raise DisagreementError
        return bool(self.plan.is_fed[position])

    def lands(self) -> bool:
        """Whether packets were left out before this one, at which decoding begins anew."""
        if not self.is_jumping:
            return False
        self.first = self.due = int(self.plan.first_numbers[self.row])
        self.is_jumping = False
        return True

    def follow(self, frame: VideoFrame) -> int:
        """The number of a frame that came; -1: it was not due yet, and is not to be used.

        Raises:
            DisagreementError: another frame was due, or this one is damaged.
        """
        if frame.pts is None or frame.is_corrupt:
            raise DisagreementError
        number = bisect_left(self.pts, frame.pts)  # type: ignore[type-var]
        if number == len(self.pts) or self.pts[number] != frame.pts:
            raise DisagreementError
        if number < self.first:
            return -1
        if number < self.due or self.plan.comes[self.due : number].any():
            raise DisagreementError
        self.due = number + 1
        self.row += number == self.plan.numbers[self.row]
        return number


def _decode_sound(packet: VideoPacket, decode: Decode) -> list[VideoFrame]:
    try:
        return decode(packet)
    except av.FFmpegError as exc:
        raise DisagreementError from exc


def _read_in_order(
    source: Source, guard: Guard, *, wanted: Collection[int], take: Callable[[int, VideoFrame], None]
) -> Reading:
    """Decodes from the first packet on, up to the last wanted frame where its number is certain."""
    reading = Reading()
    certain = source.countable
    last = max(wanted, default=-1)
    with closing(source.packets()) as packets:
        for packet in packets:
            guard.check_time()
            frames = _decode(packet, source.stream, guard)
            if frames is None:
                reading.num_failed += 1
                certain = False
                continue
            for frame in frames:
                number = len(reading.pts)
                guard.count_frame()
                guard.check_size(width=frame.width, height=frame.height)
                certain = certain and number < len(source.pts) and frame.pts == source.pts[number]
                reading.pts.append(frame.pts)
                reading.num_repaired += frame.is_corrupt
                if number in wanted:
                    take(number, frame)
            if certain and len(reading.pts) > last:
                reading.stopped = True
                break
    return reading


def _decode(packet: VideoPacket, stream: VideoStream, guard: Guard) -> list[VideoFrame] | None:
    context = stream.codec_context
    had_size = context.width > 0
    try:
        return context.decode(packet)
    except av.FFmpegError as exc:
        # A picture over FFmpeg's max_pixels fails to decode; some decoders keep its size, others clear it.
        if (had_size and not context.width) or context.width * context.height > guard.limits.max_frame_pixels:
            raise LimitError(
                "too_many_pixels",
                f"the frames grow beyond max_frame_pixels, which is {guard.limits.max_frame_pixels}",
            ) from exc
        return None


class RgbConverter:
    """Turns decoded frames into upright RGB arrays; keeps the conversion's tables between frames."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self.warnings: dict[str, str] = {}
        """What was odd about the frames, once for each kind, by its first word."""

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Returns uint8 ``[h, w, 3]``, turned as the frame's rotation says.

        Raises:
            InvalidVideoError: ``no_frames``, a pixel format that has no RGB.
        """
        pixels = self._rgb(frame).to_ndarray().astype(np.uint8, copy=False)
        rotation = frame.rotation
        if rotation % 90:
            self.warnings["rotation"] = f"{rotation} degrees are no multiple of 90; the frames stay as stored"
            return pixels
        turns = rotation // 90 % 4
        return np.rot90(pixels, k=turns) if turns else pixels

    def _rgb(self, frame: VideoFrame) -> VideoFrame:
        try:
            return self._reformatter.reformat(frame, format="rgb24", threads=1)
        except av.FFmpegError:
            self.warnings["colour"] = "the video's colour description is unusual and was ignored"
        frame.colorspace = _UNSPECIFIED
        try:
            return self._reformatter.reformat(frame, format="rgb24", threads=1)
        except av.FFmpegError as exc:
            raise InvalidVideoError(
                "no_frames", f"pixel format {frame.format.name} cannot be converted to RGB; use yuv420p"
            ) from exc
