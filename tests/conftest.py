"""Fixtures that every kind of test may use: small real videos made on the spot, and the shared reference data."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from tubelet.spec.manifest import Contract, Geometry, Head
from tubelet.spec.network import VivitNetwork, VtnNetwork
from tubelet.spec.pipeline import Crop, FullVideo, Normalisation, Resize, Sampler

# No test measures time, and the machine may be busy.
# The same examples everywhere, and no judgement on a machine that is busy.
settings.register_profile("tubelet", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tubelet")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
GRID = 4
"""Blocks along each side of a numbered picture."""
MARK = (0, 0)
"""The block that is always white; those of the three other corners are always black: so a turned picture shows."""
BIT_BLOCKS = [(y, x) for y in range(GRID) for x in range(GRID) if {y, x} - {0, GRID - 1}]


def numbered_picture(number: int, *, width: int, height: int) -> NDArray[np.uint8]:
    """A picture uint8 ``[h, w, 3]`` that shows a number below 4096 as black and white blocks."""
    blocks = np.zeros((GRID, GRID), dtype=np.uint8)
    blocks[MARK] = 255
    for bit, block in enumerate(BIT_BLOCKS):
        blocks[block] = 255 * (number >> bit & 1)
    rows, columns = np.arange(height) * GRID // height, np.arange(width) * GRID // width
    return np.repeat(blocks[rows][:, columns, None], 3, axis=2)


def read_number(picture: NDArray[np.uint8]) -> int:
    """The number that an upright picture of `numbered_picture` shows, after any resize and coding."""
    height, width = picture.shape[:2]
    centres = (2 * np.arange(GRID) + 1) / (2 * GRID)
    white = picture[(centres * height).astype(int)][:, (centres * width).astype(int)].mean(axis=2) > 127
    corners = white[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()
    assert corners == [True, False, False, False], "the picture is turned or is not a numbered picture"
    return sum(1 << bit for bit, block in enumerate(BIT_BLOCKS) if white[block])


@lru_cache(maxsize=128)
def encode_video(
    num_frames: int = 20,
    *,
    codec: str = "libx264",
    container: str = "mp4",
    size: tuple[int, int] = (120, 80),
    fps: Fraction | int = 25,
    pts_ms: tuple[int, ...] | None = None,
    rotation: int = 0,
    audio: bool = False,
    more_streams: tuple[tuple[int, int], ...] = (),
    options: tuple[tuple[str, str], ...] = (),
    pix_fmt: str = "yuv420p",
    muxer: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """Encodes a video whose frame i shows the number i.

    Args:
        num_frames: how many.
        codec: encoder, by FFmpeg's name.
        container: muxer, by FFmpeg's name.
        size: (width, height) of the stored pictures.
        fps: constant frame rate.
        pts_ms: time of every frame in milliseconds instead: variable rate.
        rotation: degrees of the display matrix, counter-clockwise; the stored pictures are turned the other way, so
            that an upright frame shows its number.
        audio: adds a stream of silence.
        more_streams: sizes of further video streams; their frame i shows the number 1000 + i.
        options: of the encoder.
        pix_fmt: stored pixel format.
        muxer: options of the muxer; ``(("moov_size", "4096"),)`` puts an MP4's header in front.
    """
    out = io.BytesIO()
    with _ordinary_scheduling(), av.open(out, "w", format=container, options=dict(muxer)) as file:
        streams = []
        for width, height in (size, *more_streams):
            stream = file.add_stream(codec, rate=Fraction(fps), options=dict(options))
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            stream.codec_context.time_base = Fraction(1, 1000) if pts_ms else 1 / Fraction(fps)
            streams.append(stream)
        if rotation:
            streams[0].set_display_rotation(rotation)
        sound = file.add_stream("aac", rate=44_100) if audio else None
        for base, stream in zip(range(0, 4000, 1000), streams, strict=False):
            for number in range(num_frames):
                picture = numbered_picture(base + number, width=stream.width, height=stream.height)
                if base == 0 and rotation:
                    picture = _stored(number, size, rotation)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = pts_ms[number] if pts_ms else number
                frame.time_base = Fraction(1, 1000) if pts_ms else 1 / Fraction(fps)
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        if sound is not None:
            _add_silence(file, sound, seconds=num_frames / float(fps))
    return out.getvalue()


@contextmanager
def _ordinary_scheduling() -> Iterator[None]:
    """SVT-AV1 gives the thread that calls it real-time priority, where root runs it, and so all that it starts then.

    Servers, and worse, compilers that wait for each other in a loop, leave a machine of two cores to nobody else.
    """
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """No test hands such a priority on to the next one, however it came to encode a video."""
    with _ordinary_scheduling():
        return (yield)


def _stored(number: int, size: tuple[int, int], rotation: int) -> NDArray[np.uint8]:
    width, height = size
    if rotation % 90:
        return numbered_picture(number, width=width, height=height)
    if rotation % 180:
        width, height = height, width
    return np.ascontiguousarray(np.rot90(numbered_picture(number, width=width, height=height), k=-(rotation // 90)))


def _add_silence(file: av.container.OutputContainer, sound: av.AudioStream, *, seconds: float) -> None:
    for begin in range(0, int(seconds * 44_100), 1024):
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), dtype=np.float32), format="fltp", layout="stereo")
        silence.sample_rate, silence.pts = 44_100, begin
        file.mux(sound.encode(silence))
    file.mux(sound.encode(None))


@pytest.fixture(scope="session")
def make_video() -> Callable[..., bytes]:
    """`encode_video`: makes small real videos, each only once."""
    return encode_video


@pytest.fixture(scope="session")
def read_numbers() -> Callable[[Sequence[NDArray[np.uint8]]], list[int]]:
    """Reads the numbers that frames of `make_video` show."""
    return lambda pictures: [read_number(picture) for picture in pictures]


def small_contract(
    *,
    clip_frames: int = 4,
    stride: int = 2,
    unit_frames: int = 2,
    short_side: int = 64,
    crop: int = 48,
    target_fps: float | None = None,
) -> Contract:
    """A contract of a factorised encoder on small pictures."""
    return Contract(
        schema_version=1,
        name="small",
        network=VivitNetwork(
            family="vivit",
            variant="factorised_encoder",
            classifier="token",
            attention_order=None,
            sampled_frames=None,
            num_heads=None,
        ),
        geometry=Geometry(unit_frames=unit_frames, feature_dim=8, positions=False, attention=False, any_length=False),
        sampler=Sampler(
            kind="scenic", num_frames=clip_frames, stride=stride, target_fps=target_fps, short_video="wrap"
        ),
        full_video=None,
        resize=Resize(
            kind="scenic",
            short_side_px=short_side,
            short_side_three_crops_px=short_side,
            kernel="bilinear",
            antialias=False,
            on="uint8_truncated",
        ),
        crop=Crop(kind="scenic", size_px=crop),
        normalisation=Normalisation(scale=2 / 255, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0)),
        protocols=("1x1", "2x1", "4x3", "10x3", "tsn"),
        default_protocol="1x1",
        aggregation="mean_logits",
        heads=(Head(name="label", num_classes=2, activation="softmax", labels_sha256="0" * 64),),
        product=None,
    )


@pytest.fixture(scope="session")
def make_contract() -> Callable[..., Contract]:
    """`small_contract`."""
    return small_contract


def small_vtn_contract(*, num_full: int = 250, span_s: float | None = 10.0) -> Contract:
    """A contract of a VTN on small pictures, with the clips of the paper: 16 frames at stride 8 for 25 fps."""
    return Contract(
        schema_version=1,
        name="small_vtn",
        network=VtnNetwork(
            family="vtn",
            variant="vit",
            backbone_heads=4,
            temporal_heads=4,
            attention_window=(4,),
            positions="learned",
            max_positions=None,
        ),
        geometry=Geometry(unit_frames=1, feature_dim=8, positions=True, attention=True, any_length=True),
        sampler=Sampler(kind="pyslowfast", num_frames=16, stride=8, target_fps=25.0, short_video="repeat_last"),
        full_video=FullVideo(num_frames=num_full, span_s=span_s),
        resize=Resize(
            kind="pyslowfast",
            short_side_px=64,
            short_side_three_crops_px=48,
            kernel="bilinear",
            antialias=False,
            on="uint8_rounded",
        ),
        crop=Crop(kind="pyslowfast", size_px=48),
        normalisation=Normalisation(scale=1 / 255, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225)),
        protocols=("full", "10x3", "10x1"),
        default_protocol="full",
        aggregation="mean_probabilities",
        heads=(Head(name="label", num_classes=2, activation="softmax", labels_sha256="0" * 64),),
        product=None,
    )


@pytest.fixture(scope="session")
def make_vtn_contract() -> Callable[..., Contract]:
    """`small_vtn_contract`."""
    return small_vtn_contract


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle of a demo model, exported from its recipe and checkpoint when it is first asked for."""
    folder = tmp_path_factory.mktemp("bundles")

    @cache
    def export(name: str) -> Path:
        from tubelet.export.bundle import export_bundle  # brings torch, which most tests do without

        export_bundle(ROOT / "export" / "recipes" / f"{name}.toml", checkpoint=None, out=folder / name)
        return folder / name

    return export


@pytest.fixture(scope="session")
def motion_bundle(demo_bundle: Callable[[str], Path]) -> Path:
    """The bundle of the first demo model."""
    return demo_bundle("motion")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return _shared("golden")


@pytest.fixture(scope="session")
def videos_dir() -> Path:
    return _shared("videos")


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the reference folder 'shared/{name}' does not lie beside the repository")
    return folder
