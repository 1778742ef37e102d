"""The videos that requests carry: read from a folder, or made for the test."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from random import Random
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tubelet.loadtest.scenario import Folder, Synthetic, Videos
from tubelet.spec.errors import ScenarioError

__all__ = ["gather_videos"]

_MOST_SIDE, _MOST_PIXELS = 8192, 20e9
"""Of one picture, and of all pictures of one of the scenario's entries: minutes of encoding."""
_LEAST_FPS, _MOST_FPS = 0.1, 1000.0
_FPS_DENOMINATOR = 1001
"""The largest that is in use (30000/1001)."""

_WAVES, _MOST_CYCLES, _SQUARES = 12, 5, 3
_TURN_FRAMES = 120
"""Frames until the camera is back where it was."""
_GRAIN, _NOISE = 5.0, 4
"""Standard deviation of a surface's grain, and range of the camera's noise, of 255."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Encoder:
    name: str
    """FFmpeg's."""
    options: dict[str, str] = field(default_factory=dict)
    pixels: str = "yuv420p"
    needs_even_size: bool = False


_SAME_QUALITY = {"flags": "+qscale", "global_quality": "590"}
"""Five times FFmpeg's unit, 118: these two would else keep a bit rate for the smallest of pictures."""

_ENCODERS = {
    "h264": _Encoder(name="libx264", options={"preset": "veryfast"}, needs_even_size=True),
    "hevc": _Encoder(
        name="libx265",
        options={"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
        needs_even_size=True,
    ),
    "mpeg4": _Encoder(name="mpeg4", options=_SAME_QUALITY),
    "vp9": _Encoder(name="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"}),
    "av1": _Encoder(name="libsvtav1", options={"preset": "10", "crf": "35", "svtav1-params": "lp=1"}),
    "mjpeg": _Encoder(name="mjpeg", options=_SAME_QUALITY, pixels="yuvj420p"),
}


def gather_videos(videos: Mapping[str, Videos], *, folder: Path, seed: int) -> dict[str, tuple[bytes, ...]]:
    """Reads or makes all videos of a scenario.

    Equal seeds make the same pictures. Encoders make the same bytes of them, but for x264, which now and then does not.

    Args:
        videos: the scenario's, by name.
        folder: the scenario's; paths are relative to it.
        seed: the scenario's; each video differs from all others.

    Returns:
        Encoded videos by name, at least one of each. Files of a folder are as they are, whatever they hold.

    Raises:
        ScenarioError: ``bad_scenario``: a folder without files or with one that cannot be read, or videos that no
            encoder makes.
    """
    return {
        name: _read(entry, folder, name) if isinstance(entry, Folder) else _make(entry, name, seed)
        for name, entry in videos.items()
    }


def _read(entry: Folder, folder: Path, name: str) -> tuple[bytes, ...]:
    root = folder / entry.path
    try:
        found = [path for path in root.glob(entry.pattern) if path.is_file() and not _is_hidden(path, root)]
    except (OSError, ValueError, NotImplementedError) as exc:
        raise ScenarioError(
            "bad_scenario", f"videos.{name}: cannot look for {entry.pattern!r} in {root}: {exc}"
        ) from exc
    if not found:
        raise ScenarioError("bad_scenario", f"videos.{name}: no file in {root} matches {entry.pattern!r}")
    found.sort(key=lambda path: path.relative_to(root).as_posix())
    return tuple(_read_file(path, name) for path in found[: entry.most])


def _read_file(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ScenarioError("bad_scenario", f"videos.{name}: cannot read {path}: {exc.strerror}") from exc


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _make(entry: Synthetic, name: str, seed: int) -> tuple[bytes, ...]:
    num_frames = max(1, round(entry.duration_s * entry.fps))
    encoder = _encoder(entry, num_frames, name)
    made = []
    for number in range(entry.count):
        rng = np.random.default_rng(Random(f"{seed} {name} {number}").getrandbits(64))
        pictures = islice(_pictures(rng, width=entry.width, height=entry.height), num_frames)
        try:
            made.append(_encode(pictures, entry, encoder))
        except av.FFmpegError as exc:
            raise ScenarioError(
                "bad_scenario",
                f"videos.{name}: no {entry.codec} of {entry.width}x{entry.height} at {entry.fps:g} frames a second can "
                "be made; use another size, rate or codec",
            ) from exc
    return tuple(made)


def _encoder(entry: Synthetic, num_frames: int, name: str) -> _Encoder:
    """The encoder of a codec, where these videos can be made."""
    if entry.codec not in _ENCODERS:
        raise _unfit(name, "codec", "one of " + ", ".join(_ENCODERS), repr(entry.codec))
    encoder = _ENCODERS[entry.codec]
    if encoder.needs_even_size and (entry.width % 2 or entry.height % 2):
        raise _unfit(name, "width and height", f"even for {entry.codec}", f"{entry.width}x{entry.height}")
    if max(entry.width, entry.height) > _MOST_SIDE:
        raise _unfit(name, "width and height", f"{_MOST_SIDE} at most", f"{entry.width}x{entry.height}")
    if not _LEAST_FPS <= entry.fps <= _MOST_FPS:
        raise _unfit(name, "fps", f"from {_LEAST_FPS:g} to {_MOST_FPS:g}", f"{entry.fps:g}")
    if (pixels := entry.count * num_frames * entry.width * entry.height) > _MOST_PIXELS:
        raise _unfit(
            name, "count * width * height * frames", f"{_MOST_PIXELS:.0e} pixels at most", f"{float(pixels):.1e}"
        )
    return encoder


def _unfit(name: str, key: str, expected: str, value: str) -> ScenarioError:
    return ScenarioError("bad_scenario", f"videos.{name}.{key} must be {expected}, got {value}")


def _encode(pictures: Iterator[NDArray[np.uint8]], entry: Synthetic, encoder: _Encoder) -> bytes:
    out = io.BytesIO()
    rate = Fraction(entry.fps).limit_denominator(_FPS_DENOMINATOR)
    with _quiet_and_ordinary(), av.open(out, "w", format="mp4") as file:
        stream = cast(VideoStream, file.add_stream(encoder.name, rate=rate, options=encoder.options))
        stream.width, stream.height, stream.pix_fmt = entry.width, entry.height, encoder.pixels
        stream.codec_context.time_base, stream.codec_context.thread_count = 1 / rate, 1
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


@contextmanager
def _quiet_and_ordinary() -> Iterator[None]:
    """Undoes what SVT-AV1 does to a process: it prints a page a video, and takes real-time priority for its caller.

    It does the latter where root runs it; all that the thread starts later would have that priority too.
    """
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    log = os.environ.get("SVT_LOG")
    os.environ["SVT_LOG"] = log or "0"
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)
        if log is None:
            del os.environ["SVT_LOG"]


def _pictures(rng: np.random.Generator, *, width: int, height: int) -> Iterator[NDArray[np.uint8]]:
    """A camera that swings over a grainy surface, in front of which squares cross; with the noise of a camera.

    Yields:
        Pictures uint8 ``[h, w, 3]``, RGB, without end.
    """
    swing = math.ceil(height / 10)
    surface = _surface(rng, width=width + 2 * swing, height=height + 2 * swing)
    noise = rng.integers(0, _NOISE, size=(height + 16, width + 16, 1), dtype=np.uint8).repeat(3, axis=2)
    side = max(1, height // 4)
    colours = rng.integers(0, 256 - _NOISE, size=(_SQUARES, 3), dtype=np.uint8)
    starts, speeds = rng.uniform(0, 1, (_SQUARES, 2)), rng.uniform(-0.02, 0.02, (_SQUARES, 2))
    number = 0
    while True:
        angle = 2 * math.pi * number / _TURN_FRAMES
        x, y = round(swing * (1 + math.sin(angle))), round(swing * (1 + math.cos(angle)))
        picture = surface[y : y + height, x : x + width].copy()
        for colour, place in zip(colours, (starts + number * speeds) % 1, strict=True):
            left, top = int(place[0] * width), int(place[1] * height)
            picture[top : top + side, left : left + side] = colour
        dx, dy = rng.integers(0, 17, 2)
        picture += noise[dy : dy + height, dx : dx + width]
        yield picture
        number += 1


def _surface(rng: np.random.Generator, *, width: int, height: int) -> NDArray[np.uint8]:
    """Coloured waves in all directions with grain, uint8 ``[h, w, 3]``; leaves room for `_NOISE`."""
    strengths = rng.uniform(-1, 1, (_WAVES, 3)) * 25
    steps = rng.uniform(-1, 1, (2, _WAVES)) * 2 * math.pi * _MOST_CYCLES / height
    down, across = np.arange(height)[:, None] * steps[0], np.arange(width)[:, None] * steps[1]
    across += rng.uniform(0, 2 * math.pi, _WAVES)
    # sin(down + across), of all pairs at once: sin * cos + cos * sin.
    rows = np.hstack((np.sin(down), np.cos(down)))
    columns = np.hstack((np.cos(across), np.sin(across)))[:, None] * np.vstack((strengths, strengths)).T
    waves = (rows @ columns.reshape(-1, 2 * _WAVES).T).reshape(height, width, 3)
    grain = rng.normal(128, _GRAIN, (height, width, 1))
    surface: NDArray[np.uint8] = np.clip(waves + grain, 0, 255 - _NOISE).astype(np.uint8)
    return surface
