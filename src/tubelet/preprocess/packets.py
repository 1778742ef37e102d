"""The first pass over a video: what its packets are, read one after the other and not decoded.

Of each packet a few numbers are kept. The packets themselves are kept of small videos only: of a large one they would
be a second copy of the file, and it is demuxed again instead when it is decoded.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream

from tubelet.preprocess.bitstream import PictureReader
from tubelet.preprocess.guard import Guard
from tubelet.preprocess.seeking import SeekIndex
from tubelet.spec.errors import InvalidVideoError

__all__ = ["MAX_KEPT_BYTES", "MAX_KEPT_PACKETS", "Survey", "VideoPacket"]

VideoPacket: TypeAlias = "Packet[VideoStream]"

MAX_KEPT_BYTES = 32 * 1024 * 1024
"""Larger videos are demuxed twice."""
MAX_KEPT_PACKETS = 16 * 1024
"""So are videos of more packets: each takes more than half a KiB beside its bytes."""

_SHOWN, _STAMPED, _START, _DISPOSABLE = 1, 2, 4, 8
_LAYER_SHIFT = 4


@dataclass(slots=True)
class Survey:
    """What is known of the packets so far."""

    guard: Guard
    read_picture: PictureReader | None
    """None: the stream is not one in which a decoder may begin later."""
    kept: list[VideoPacket] | None
    """In decoding order; the last one is the empty packet that makes the decoder give up its last frames. None: they
    are too large to be kept."""
    num_shown: int = 0
    """Packets that become frames."""
    num_corrupt: int = 0
    """Packets that the container knows to be damaged."""
    broke_off: bool = False
    """Whether the container ended in an error."""
    _pts: array[int] = field(default_factory=lambda: array("q"))
    _traits: bytearray = field(default_factory=bytearray)
    _parameters: bytes | None = None
    """Parameter sets in the first packet."""

    @property
    def num_packets(self) -> int:
        """Packets that hold anything."""
        return len(self._traits)

    def read(self, packets: Iterable[VideoPacket]) -> None:
        """Reads packets to their end.

        Raises:
            InvalidVideoError: ``encrypted``.
            LimitError: ``too_long`` or ``decode_timeout``.
            DeadlineError: the request's time is over.
        """
        try:
            for packet in packets:
                self.guard.check_time()
                self._add(packet)
        except av.FFmpegError:
            self.broke_off = True

    def shown_pts(self) -> tuple[list[int | None], bool]:
        """Time stamps of the packets that are shown, and whether all have one of their own: then they are sorted."""
        traits = np.frombuffer(self._traits, dtype=np.uint8)
        shown = traits & _SHOWN > 0
        stamps, is_stamped = np.frombuffer(self._pts, dtype=np.int64)[shown], (traits & _STAMPED > 0)[shown]
        in_order = np.sort(stamps)
        if is_stamped.all() and (in_order[1:] > in_order[:-1]).all():
            return in_order.tolist(), True
        return [pts if has_one else None for pts, has_one in zip(stamps.tolist(), is_stamped, strict=True)], False

    def seek_index(self) -> SeekIndex | None:
        """What decoding parts of the stream needs; None: it has to be decoded from its first packet on."""
        if self.read_picture is None:
            return None
        traits = np.frombuffer(self._traits, dtype=np.uint8)
        layers = traits >> _LAYER_SHIFT
        index = SeekIndex(
            pts=np.frombuffer(self._pts, dtype=np.int64),
            is_shown=traits & _SHOWN > 0,
            is_start=traits & _START > 0,
            is_disposable=(traits & _DISPOSABLE > 0) & (layers == layers.max()),
        )
        return index if index.begins_whole else None

    def _add(self, packet: VideoPacket) -> None:
        if packet.has_sidedata("encryption_info"):
            raise InvalidVideoError("encrypted", "the video is encrypted; send it without protection")
        self._keep(packet)
        if not packet.size:
            return
        self.num_corrupt += packet.is_corrupt
        traits = 0
        if not packet.is_discard:
            traits = _SHOWN
            self.num_shown += 1
            self.guard.check_frames(self.num_shown)
        pts = packet.pts
        if pts is None:
            self.read_picture = None
        else:
            traits |= _STAMPED
        if self.read_picture is not None:
            traits |= self._look_into(packet, self.read_picture)
        self._pts.append(pts or 0)
        self._traits.append(traits)

    def _keep(self, packet: VideoPacket) -> None:
        if self.kept is not None:
            self.kept.append(packet)
            if len(self.kept) > MAX_KEPT_PACKETS:
                self.kept = None

    def _look_into(self, packet: VideoPacket, read_picture: PictureReader) -> int:
        """Traits of the picture; gives up where a decoder that left out packets would miss other parameters."""
        picture = read_picture(memoryview(packet))
        if self._parameters is None and picture is not None:
            self._parameters = picture.parameters
        if (
            picture is None
            or picture.parameters not in (b"", self._parameters)
            or packet.has_sidedata("new_extradata")
            or packet.has_sidedata("param_change")
        ):
            self.read_picture = None
            return 0
        return _START * picture.is_start | _DISPOSABLE * picture.is_disposable | picture.layer << _LAYER_SHIFT
