"""Lets the card reconstruct the pictures of H.264 and HEVC videos; all else is done as ever (docs/adr/0018).

NVDEC is reached through libavcodec, whose builds in PyAV's wheels (18.1.0: FFmpeg 8.1.2, ``--enable-nvdec``) load
``libcuda.so.1`` and ``libnvcuvid.so.1`` of the driver when asked to. Demuxing, parsing, the order of frames, time
stamps and limits stay libavcodec's and ours; the card gets slices and gives surfaces. Both codecs define every bit of
a picture, so frames equal those of the processor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Literal

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from tubelet.preprocess.canary import canary_video
from tubelet.preprocess.container import Source, open_video
from tubelet.preprocess.decode import DisagreementError, Reading, RgbConverter, read_frames, read_parts
from tubelet.preprocess.guard import Guard
from tubelet.preprocess.packets import VideoPacket
from tubelet.spec.errors import InvalidVideoError, MachineError
from tubelet.spec.limits import Limits

__all__ = ["CODECS", "NvdecDecoder", "Refusal", "open_nvdec"]

Refusal = Literal["codec", "stream", "format", "error", "frames"]
"""Why the processor decodes a video after all: the codec is none of `CODECS`; packets and time stamps do not tell
beforehand which frame is which; the card does not take its pictures, or gives them in another form than NV12 of the
video's size; driver or card failed; other frames came than were due, or damaged ones."""

CODECS = frozenset(("h264", "hevc"))
"""Codecs of the card, by FFmpeg's names: those whose decoders have to agree in every bit, and that videos are in."""

_LAYOUT, _PLANAR = "nv12", "yuv420p"

_REMEDY = (
    "start the container with the card and NVIDIA_DRIVER_CAPABILITIES=compute,utility,video, and use PyAV's own wheel, "
    "or decode with pyav"
)


class _RefusalError(Exception):
    """The card is not to decode this video, or cannot."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason = reason


class NvdecDecoder:
    """The card's decoder, for one process; falls back to the processor video by video.

    Raises:
        MachineError: ``missing``: no driver, no card, or a PyAV that was built without it.
    """

    def __init__(self) -> None:
        self._accelerator = HWAccel("cuda", is_hw_owned=True, allow_software_fallback=True)
        self._planar = VideoReformatter()
        try:
            # Keeps the card's primary context alive; each video's decoder is made in it.
            self._context = self._accelerator.create(av.Codec("h264", "r"))
        except (av.FFmpegError, NotImplementedError) as exc:
            raise MachineError("missing", f"decoder nvdec finds no card with a driver here ({exc}); {_REMEDY}") from exc

    @contextmanager
    def open(self, video: bytes, guard: Guard) -> Iterator[Source]:
        """As `tubelet.preprocess.container.open_video`, with the stream's decoder on the card where it can be."""
        with ExitStack() as stack:
            try:
                source = stack.enter_context(open_video(video, guard, accelerator=self._accelerator))
            except InvalidVideoError:  # said of the video, but the card's memory may have been full
                source = stack.enter_context(open_video(video, guard))
            yield source

    def read_frames(
        self,
        source: Source,
        guard: Guard,
        *,
        wanted: Collection[int],
        take: Callable[[int, VideoFrame], None],
        restart: Callable[[], None],
    ) -> Reading:
        """As `tubelet.preprocess.decode.read_frames`; the reading says who decoded, and why not the card."""
        try:
            reading = self._read(source, guard, wanted=wanted, take=take)
        except _RefusalError as exc:
            refusal = exc.reason
        except DisagreementError:
            refusal = "frames"
        else:
            reading.decoder = "nvdec"
            return reading
        restart()
        with open_video(source.video, guard) as again:
            reading = read_frames(again, guard, wanted=wanted, take=take, restart=restart)
        reading.refusal = refusal
        return reading

    def _read(
        self, source: Source, guard: Guard, *, wanted: Collection[int], take: Callable[[int, VideoFrame], None]
    ) -> Reading:
        context = source.stream.codec_context
        if context.name not in CODECS:
            raise _RefusalError("codec")
        if source.seek_index is None:
            raise _RefusalError("stream")
        if not context.is_hwaccel:
            raise _RefusalError("error")
        return read_parts(
            source,
            guard,
            decode=partial(self._decode, context),
            wanted=wanted,
            take=lambda number, surface: take(number, self._fetch(surface)),
        )

    def _decode(self, context: VideoCodecContext, packet: VideoPacket) -> list[VideoFrame]:
        try:
            surfaces = context.decode(packet)
        except av.FFmpegError as exc:
            raise _RefusalError("error") from exc
        for surface in surfaces:
            if not _is_ordinary(surface, context):
                raise _RefusalError("format")
        return surfaces

    def _fetch(self, surface: VideoFrame) -> VideoFrame:
        """Copies a surface into memory, in the planes in which the processor decodes.

        FFmpeg converts NV12 to RGB in another way than planar pictures, up to 51 of 255 levels apart; parting the
        chroma planes first loses nothing.
        """
        try:
            return self._planar.reformat(surface, format=_PLANAR, threads=1)
        except av.FFmpegError as exc:
            raise _RefusalError("error") from exc


def open_nvdec() -> NvdecDecoder:
    """The card's decoder, after it has decoded a tiny video as the processor does.

    Raises:
        MachineError: ``missing``, as `NvdecDecoder`, or the part of the driver that decodes; ``start_failed``: its
            frames differ.
    """
    decoder = NvdecDecoder()
    guard, expected, found = Guard(Limits()), _Pictures(), _Pictures()
    with open_video(canary_video(), guard) as source:
        wanted = range(len(source.pts))
        read_frames(source, guard, wanted=wanted, take=expected.take, restart=expected.clear)
    with decoder.open(canary_video(), guard) as source:
        reading = decoder.read_frames(source, guard, wanted=wanted, take=found.take, restart=found.clear)
    if reading.refusal:
        raise MachineError("missing", f"the card does not decode H.264 here ({reading.refusal}); {_REMEDY}")
    if any((found[number] != expected[number]).any() for number in wanted):
        raise MachineError("start_failed", "the card decodes H.264 to other pixels than the processor; use pyav")
    return decoder


class _Pictures(dict[int, NDArray[np.uint8]]):
    """Frames uint8 ``[h, w, 3]`` by their numbers."""

    def take(self, number: int, frame: VideoFrame) -> None:
        self[number] = RgbConverter()(frame)


def _is_ordinary(surface: VideoFrame, context: VideoCodecContext) -> bool:
    """Whether a surface is what the processor would have given, but for where it lies.

    A frame without a layout of its surface is in memory: the card does not take its kind, the processor decoded it. Of
    a picture that is cut at its left or upper side libavcodec moves the plane's beginning, but not that of a surface.
    """
    layout = surface.sw_format
    return (
        layout is not None
        and layout.name == _LAYOUT
        and (surface.width, surface.height) == (context.width, context.height)
        and not surface.interlaced_frame
    )
