"""Reads of a packet, without decoding it, whether a decoder may begin there and whether other pictures need it.

Containers mark key frames too, but mean less by it: with intra refresh or open groups of pictures, a decoder that
begins there shows pictures that differ from those of a full decode. What is read here are the promises of the codecs
themselves: ITU-T H.264 (7.4.1.2.4), ITU-T H.265 (7.4.2.2, 8.3.1) and the AV1 bitstream specification (7.20, 7.21).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

__all__ = ["MAX_UNITS", "Picture", "PictureReader", "picture_reader"]

MAX_UNITS = 1024
"""Parts of a packet that are looked at; encoders make a dozen, and each costs time before any limit on frames holds."""


class Picture(NamedTuple):
    """What a packet with one picture says of it."""

    is_start: bool
    """A decoder that begins here gives this picture, and all that are decoded and shown after it, as a full decode."""
    is_disposable: bool
    """No other picture of the same or of a lower layer is predicted from this one."""
    layer: int
    """Temporal layer; pictures are predicted from their own and from lower layers."""
    parameters: bytes
    """Parameter sets that came with it, which hold for the following pictures as well."""


PictureReader = Callable[[memoryview], Picture | None]
"""Reads a packet; None: not to be understood, or a splice after which a decoder may leave out pictures."""


def picture_reader(codec: str, extradata: bytes | None) -> PictureReader | None:
    """The reader for a stream.

    Args:
        codec: name of the decoder, by FFmpeg's names.
        extradata: header of the stream: for H.264 and HEVC that of MP4, with lengths in front of all units.

    Returns:
        The reader; None for streams that are always decoded from their first packet on.
    """
    read = _format_reader(codec, extradata or b"")
    if read is None:
        return None

    def read_or_give_up(packet: memoryview) -> Picture | None:
        try:
            return read(packet)
        except (_UnreadableError, IndexError):
            return None

    return read_or_give_up


def _format_reader(codec: str, extradata: bytes) -> PictureReader | None:
    if codec == "h264" and len(extradata) >= 7 and extradata[0] == 1:
        return partial(_read_h264, length_bytes=(extradata[4] & 3) + 1)
    if codec == "hevc" and len(extradata) >= 23 and extradata[0] == 1:
        return partial(_read_hevc, length_bytes=(extradata[21] & 3) + 1)
    if codec in ("libdav1d", "av1"):
        return _read_av1
    return _read_intra if codec == "prores" else None


def _read_intra(packet: memoryview) -> Picture:
    return Picture(is_start=True, is_disposable=True, layer=0, parameters=b"")


class _UnreadableError(ValueError):
    """The packet's parts do not add up."""


def _read_h264(packet: memoryview, length_bytes: int) -> Picture | None:
    """Only an IDR picture is a start. A recovery point of intra refresh or of an open group is none."""
    first_kind, is_disposable, parameters = 0, True, b""
    for begin, end in _units(packet, length_bytes):
        kind, is_reference = packet[begin] & 31, packet[begin] >> 5 & 3
        if kind in (1, 5):  # slices
            first_kind = first_kind or kind
            is_disposable = is_disposable and not is_reference
        elif kind in (2, 3, 4):  # slices in partitions
            return None
        elif kind in (7, 8, 13, 15):
            parameters += packet[begin:end]
    return Picture(first_kind == 5, is_disposable, 0, parameters) if first_kind else None


def _read_hevc(packet: memoryview, length_bytes: int) -> Picture | None:
    """IDR and CRA pictures are starts; what is shown before a CRA picture belongs to what lies before it."""
    first_kind, layer, parameters = -1, 0, b""
    for begin, end in _units(packet, length_bytes):
        if end - begin < 2:
            return None
        kind, stream_layer = packet[begin] >> 1 & 63, (packet[begin] & 1) << 5 | packet[begin + 1] >> 3
        if kind in (16, 17, 18, 36, 37):  # BLA pictures and ends of sequences: leading pictures after them are dropped
            return None
        if kind < 32 and stream_layer == 0 and first_kind < 0:
            first_kind, layer = kind, packet[begin + 1] & 7
        elif kind in (32, 33, 34):
            parameters += packet[begin:end]
    if first_kind < 0:
        return None
    return Picture(first_kind in (19, 20, 21), first_kind < 16 and first_kind % 2 == 0, layer, parameters)


def _units(packet: memoryview, length_bytes: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each unit of H.264 and HEVC, their lengths in front of them."""
    at, size = 0, len(packet)
    for _ in range(MAX_UNITS):
        begin = at + length_bytes
        end = begin + int.from_bytes(packet[at:begin], "big")
        if begin >= end or end > size:
            break
        yield begin, end
        at = end
        if at == size:
            return
    raise _UnreadableError


def _read_av1(packet: memoryview) -> Picture | None:
    """A key frame that is shown at once, with its sequence header: it resets all that a decoder remembers."""
    is_key: bool | None = None
    parameters = b""
    for kind, begin, end in _open_bitstream_units(packet):
        if kind == 1:
            if packet[begin] & 8:  # a still picture, whose frame headers look different
                return None
            parameters += packet[begin:end]
        elif kind in (3, 6) and is_key is None:
            is_key = packet[begin] >> 4 == 1
    return None if is_key is None else Picture(is_key and bool(parameters), False, 0, parameters)


def _open_bitstream_units(packet: memoryview) -> Iterator[tuple[int, int, int]]:
    """Kind, begin and end of each unit of AV1."""
    at, size = 0, len(packet)
    for _ in range(MAX_UNITS):
        header = packet[at]
        at += 2 if header & 4 else 1
        length = size - at
        if header & 2:
            length = shift = 0
            while True:
                length |= (packet[at] & 127) << shift
                at, shift, is_last = at + 1, shift + 7, packet[at] < 128
                if is_last or shift > 28:
                    break
        if at + length > size:
            break
        if length:
            yield header >> 3 & 15, at, at + length
        at += length
        if at == size:
            return
    raise _UnreadableError
