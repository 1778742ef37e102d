"""A look at the first bytes, before any parser sees them."""

from __future__ import annotations

__all__ = ["begins_like_video", "is_text", "missing_bytes"]

_HEAD = 1024
_TEXT = bytes({*range(0x20, 0x7F), *range(0x80, 0x100), *b"\t\n\r\f\x1b"})
"""Bytes of text in ASCII, UTF-8 or an 8-bit encoding; no video format begins with that many of them."""

_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"styp", b"wide", b"free", b"skip")
"""Boxes with which an MP4 or MOV begins."""

_MAGIC = (
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
    (8, b"AVI "),
    (0, b"OggS"),
    (0, b"FLV\x01"),
    (0, b"GIF8"),
    (0, b"0&\xb2u\x8ef\xcf\x11"),  # ASF
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    *((4, box) for box in _BOXES),
)


def is_text(video: bytes) -> bool:
    """Whether these bytes are text: a page, a playlist, a script. FFmpeg would follow what some of them name."""
    return not video[:_HEAD].translate(None, _TEXT)


def begins_like_video(video: bytes) -> bool:
    """Whether these bytes begin as a known video format does; the rest may still be missing."""
    return any(video[at : at + len(magic)] == magic for at, magic in _MAGIC)


def missing_bytes(video: bytes) -> int:
    """Bytes that the outermost boxes of an MP4 or the header of an AVI promise beyond the end; 0 for other formats."""
    if video[:4] == b"RIFF":
        return max(0, int.from_bytes(video[4:8], "little") + 8 - len(video))
    return max(0, _end_of_boxes(video) - len(video)) if video[4:8] in _BOXES else 0


def _end_of_boxes(video: bytes) -> int:
    at = 0
    while at + 8 <= len(video) and video[at + 4 : at + 8].isalnum():
        size = int.from_bytes(video[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(video[at + 8 : at + 16], "big")
        elif size == 0:
            size = len(video) - at
        if size < 8:
            break
        at += size
    return at
