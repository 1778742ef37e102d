"""Decodes the packets of a source and hands over the frames that are wanted, upright and in RGB.

Frames are numbered as a pipeline numbers them that decodes everything and counts from 0. A source whose packets can
be counted is read up to the last wanted frame; any other, and any that turns out otherwise, to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tubelet.preprocess.container import Source
from tubelet.preprocess.guard import Guard
from tubelet.spec.errors import InvalidVideoError, LimitError

__all__ = ["Reading", "RgbConverter", "read_frames"]

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


def read_frames(
    source: Source, guard: Guard, *, wanted: Collection[int], take: Callable[[int, VideoFrame], None]
) -> Reading:
    """Decodes a source in order.

    Args:
        source: freshly opened; its decoder is used up afterwards.
        guard: clock and limits of the request.
        wanted: numbers of the frames to hand over.
        take: is called with the number and the frame, in rising order.

    Returns:
        What was read.

    Raises:
        LimitError: ``too_many_pixels``, ``too_long`` or ``decode_timeout``.
        InvalidVideoError: ``bad_dimensions``.
        DeadlineError: the request's time is over.
    """
    reading = Reading()
    certain = source.countable
    last = max(wanted, default=-1)
    for packet in source.packets:
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


def _decode(packet: Packet[VideoStream], stream: VideoStream, guard: Guard) -> list[VideoFrame] | None:
    context = stream.codec_context
    had_size = context.width > 0
    try:
        return packet.decode()
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
