"""A driver for cards that are not there, and what processes do that have it: see scripted_card.c."""

from __future__ import annotations

import ctypes
import io
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

__all__ = ["COMPILER", "build_driver", "load_driver", "write_pictures"]

COMPILER = shutil.which("cc")
LIBRARIES = ("libcuda.so.1", "libnvcuvid.so.1")
SOURCE = Path(__file__).with_suffix(".c")


def build_driver(folder: Path) -> None:
    """Compiles the driver, with all names for which PyAV's FFmpeg looks in one."""
    assert COMPILER is not None
    own = set(re.findall(r"^int (cu\w+)\(", SOURCE.read_text(), re.MULTILINE))
    code = b"".join(path.read_bytes() for path in (Path(av.__file__).parents[1] / "av.libs").glob("libav[cu]*"))
    names = {name.decode() for name in re.findall(rb"(?<=\0)cu(?:vid)?[A-Z]\w+(?=\0)", code)}
    assert own < names
    unused = "".join(f"int {name}(void) {{ return 999; }}\n" for name in sorted(names - own))
    (folder / "scripted_card_unused.h").write_text(unused)
    for library in LIBRARIES:
        options = ["-O2", "-shared", "-fPIC", f"-Wl,-soname,{library}", f"-I{folder}", "-o", str(folder / library)]
        subprocess.run([COMPILER, *options, str(SOURCE)], check=True)


def load_driver(folder: Path) -> None:
    """Makes this process find the driver: what is loaded under a library's name is not searched for."""
    for library in LIBRARIES:
        ctypes.CDLL(str(folder / library))
    os.environ["SCRIPTED_CARD_PICTURES"] = str(folder / "pictures")


def write_pictures(folder: Path, *videos: bytes) -> None:
    """Writes what the card will know: all pictures of H.264 and HEVC videos, decoded by the processor."""
    with (folder / "pictures").open("wb") as out:
        for video in videos:
            for bits, frame in _pictures(video):
                row_bytes = (frame.width + 1) // 2 * 2 * (2 if frame.format.name == "p010le" else 1)
                out.write(struct.pack("<4I", len(bits), zlib.crc32(bits), row_bytes, frame.height))
                for plane in frame.planes:
                    rows = bytes(plane)
                    starts = range(0, plane.height * plane.line_size, plane.line_size)
                    out.writelines(rows[start : start + row_bytes] for start in starts)


def _pictures(video: bytes) -> Iterator[tuple[bytes, VideoFrame]]:
    slices: dict[int | None, bytes] = {}
    reformatter = VideoReformatter()
    with av.open(io.BytesIO(video), "r", metadata_errors="replace") as file:
        stream = file.streams.best("video")
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        extradata = context.extradata or b""
        layout = "nv12" if context.pix_fmt in ("yuv420p", "yuvj420p") else "p010le"
        for packet in file.demux(stream):
            slices[packet.pts] = b"".join(
                b"\0\0\1" + unit
                for unit in _units(bytes(packet), (extradata[4 if context.name == "h264" else 21] & 3) + 1)
                if ((unit[0] & 31) in (1, 5) if context.name == "h264" else (unit[0] >> 1 & 63) < 32)
            )
            for frame in context.decode(packet):
                yield slices.pop(frame.pts), reformatter.reformat(frame, format=layout, threads=1)


def _units(packet: bytes, length_bytes: int) -> Iterator[bytes]:
    at = 0
    while at < len(packet):
        begin = at + length_bytes
        at = begin + int.from_bytes(packet[at:begin], "big")
        yield packet[begin:at]
