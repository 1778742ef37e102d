"""Opens an encoded video that lies in memory: what it is, which stream counts, which packets it has.

Nothing but these bytes is ever read: no path, no protocol, no file that they name. Headers are not believed; what
can be counted is counted.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from tubelet.preprocess.bitstream import picture_reader
from tubelet.preprocess.guard import Guard
from tubelet.preprocess.packets import MAX_KEPT_BYTES, Survey, VideoPacket
from tubelet.preprocess.seeking import SeekIndex
from tubelet.preprocess.sniff import begins_like_video, is_text, missing_bytes
from tubelet.preprocess.timeline import VideoClock, video_clock
from tubelet.spec.errors import InvalidVideoError

__all__ = ["CODECS", "FORMATS", "Source", "open_video"]

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,gif,asf,m4v,h264,hevc"
"""Demuxers that may look at the bytes, by FFmpeg's names; others open files or sockets, or turn text into video."""

_CODECS_OF_TODAY = ("h264", "hevc", "vvc", "av1", "libdav1d", "vp8", "vp9", "mpeg4", "mjpeg", "prores", "gif")
_CODECS_OF_ARCHIVES = ("mpeg1video", "mpeg2video", "h263", "h263p", "flv", "theora", "wmv1", "wmv2", "wmv3", "vc1")

CODECS = frozenset((*_CODECS_OF_TODAY, *_CODECS_OF_ARCHIVES, "msmpeg4"))
"""Decoders that may run, by FFmpeg's names."""

_THREADS = 2
"""Threads of one decoder: few and fixed, so that one video cannot take the machine. They share the slices of one
picture: with a thread for each picture, whether damage is noticed depends on which of them is faster."""

_CODEC_PIXELS_FACTOR = 2
"""FFmpeg counts padded macroblocks where we count pixels; the exact limit is checked on every frame."""

_ONE_PICTURE_PER_PACKET = frozenset(("h264", "hevc", "vvc", "av1", "libdav1d", "mjpeg", "prores", "gif"))
_SAMPLE_CONTAINERS = frozenset(("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv", "gif"))


class _Memory(io.BytesIO):
    """The bytes, with a look at the clock on every read: probing and demuxing a hostile file end in time as well."""

    def __init__(self, video: bytes, guard: Guard) -> None:
        super().__init__(video)
        self._guard = guard

    def read(self, size: int | None = -1, /) -> bytes:
        self._guard.check_time()
        return super().read(size)


@dataclass(frozen=True, slots=True)
class Source:
    """An opened video and what its packets say of its best video stream; valid inside `open_video` only."""

    video: bytes
    stream: VideoStream
    guard: Guard
    pts: list[int | None]
    """Time stamps of the packets that are shown, in the order of showing where all have one."""
    countable: bool
    """Whether each shown packet is sure to become one frame, so that N is known before anything is decoded."""
    seek_index: SeekIndex | None
    """Where decoding may begin and what it may leave out; None: it has to begin with the first packet."""
    cut: str
    """How the file shows that its end is missing, in words; empty: it does not."""
    num_packets: int
    """Packets that hold anything."""
    num_corrupt: int
    """Packets that the container knows to be damaged."""
    num_video_streams: int
    kept: list[VideoPacket] | None
    """All packets, unless they would take too much memory."""

    def packets(self) -> Generator[VideoPacket, None, None]:
        """All packets in decoding order; the last one is empty and makes the decoder give up its last frames."""
        if self.kept is not None:
            yield from self.kept
            return
        with _open(self.video, self.guard) as container:
            try:
                stream = cast(VideoStream, container.streams[self.stream.index])
                yield from container.demux(stream)
            except av.FFmpegError:
                return  # the first pass ended here too

    @property
    def time_base(self) -> Fraction:
        return self.stream.time_base or Fraction(1, 90_000)

    def clock(self, pts: Sequence[int | None]) -> tuple[VideoClock, bool]:
        """The clock of frames with these time stamps, one at least, and whether its times come from them."""
        return video_clock(
            pts,
            time_base=self.time_base,
            rate=self.stream.average_rate or self.stream.guessed_rate,
            num_claimed=self.stream.frames,
            duration=self.stream.duration,
        )

    @property
    def claimed_s(self) -> float | None:
        """Duration as the header has it, in seconds."""
        if self.stream.duration:
            return float(self.stream.duration * self.time_base)
        container = cast(InputContainer, self.stream.container)
        return container.duration / av.time_base if container.duration else None


@contextmanager
def open_video(
    video: bytes, guard: Guard, *, may_seek: bool = True, accelerator: HWAccel | None = None
) -> Iterator[Source]:
    """Opens a video and reads its packets; decodes nothing.

    Args:
        video: the encoded bytes.
        guard: clock and limits of the request.
        may_seek: whether decoding may begin in the middle and leave out what nobody wants.
        accelerator: a card to set up the stream's decoder on, where there is one for its codec.

    Yields:
        The source; its stream's decoder is set up, but has not begun.

    Raises:
        InvalidVideoError: ``empty_video``, ``not_a_video``, ``truncated``, ``no_video_stream``,
            ``codec_not_allowed``, ``encrypted``, ``no_frames`` or ``bad_dimensions``.
        LimitError: ``too_many_pixels``, ``too_long`` or ``decode_timeout``.
        DeadlineError: the request's time is over.
    """
    if not video:
        raise InvalidVideoError("empty_video", "an encoded video is expected, got no bytes")
    if is_text(video):
        raise InvalidVideoError("not_a_video", "an encoded video is expected, got text")
    with _open(video, guard, accelerator) as container:
        stream = _best_stream(container, video)
        _set_up_decoder(stream, guard)
        yield _survey(container, stream, video, guard, may_seek=may_seek)


def _open(video: bytes, guard: Guard, accelerator: HWAccel | None = None) -> InputContainer:
    options = {
        "format_whitelist": FORMATS,
        "protocol_whitelist": "none",
        # Opening decodes a frame or two to learn the format; this bounds that memory.
        "max_pixels": str(guard.limits.max_frame_pixels * _CODEC_PIXELS_FACTOR),
    }
    try:
        return av.open(
            _Memory(video, guard),
            "r",
            options=options,
            metadata_errors="replace",
            io_open=_refuse_to_open,
            hwaccel=accelerator,
        )
    except (av.FFmpegError, PermissionError) as exc:
        raise _unreadable(video) from exc


def _refuse_to_open(url: str, flags: int, options: dict[str, Any]) -> io.BytesIO:
    raise PermissionError("a video may name no other file")


def _unreadable(video: bytes) -> InvalidVideoError:
    if begins_like_video(video):
        return InvalidVideoError("truncated", "the video's header is incomplete or damaged; send the whole file")
    return InvalidVideoError("not_a_video", "these bytes are in no video format that is accepted here")


def _best_stream(container: InputContainer, video: bytes) -> VideoStream:
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not len(container.streams):
        raise _unreadable(video)
    if not streams:
        raise InvalidVideoError("no_video_stream", "the file holds no moving pictures")
    best = container.streams.best("video")
    return best if isinstance(best, VideoStream) and best in streams else streams[0]


def _set_up_decoder(stream: VideoStream, guard: Guard) -> None:
    context = stream.codec_context
    # PyAV has no codec context for a codec that FFmpeg does not know.
    name = context.name if context is not None else "unknown"  # type: ignore[redundant-expr]
    if name not in CODECS:
        raise InvalidVideoError(
            "codec_not_allowed",
            f"codec {name!r} is not accepted; encode the video as H.264, HEVC, AV1, VP9, VP8 or MPEG-4",
        )
    if context.width and context.height:
        guard.check_size(width=context.width, height=context.height)
    context.options = {"max_pixels": str(guard.limits.max_frame_pixels * _CODEC_PIXELS_FACTOR)}
    context.thread_type, context.thread_count = "SLICE", _THREADS


def _survey(container: InputContainer, stream: VideoStream, video: bytes, guard: Guard, *, may_seek: bool) -> Source:
    context = stream.codec_context
    is_familiar = container.format.name in _SAMPLE_CONTAINERS and context.name in _ONE_PICTURE_PER_PACKET
    read_picture = picture_reader(context.name, context.extradata) if may_seek and is_familiar else None
    survey = Survey(guard, read_picture, kept=[] if len(video) <= MAX_KEPT_BYTES else None)
    survey.read(container.demux(stream))
    cut = _cut(video, broke_off=survey.broke_off)
    if not survey.num_shown:
        raise InvalidVideoError("truncated" if cut else "no_frames", cut or "the video stream holds no frames")
    pts, are_distinct = survey.shown_pts()
    countable = are_distinct and is_familiar and not cut and not survey.num_corrupt
    return Source(
        video=video,
        stream=stream,
        guard=guard,
        pts=pts,
        countable=countable,
        seek_index=survey.seek_index() if countable else None,
        cut=cut,
        num_packets=survey.num_packets,
        num_corrupt=survey.num_corrupt,
        num_video_streams=len(container.streams.video),
        kept=survey.kept,
    )


def _cut(video: bytes, *, broke_off: bool) -> str:
    if missing := missing_bytes(video):
        return f"the file breaks off, {missing} bytes are missing at least"
    return "the file breaks off" if broke_off else ""
