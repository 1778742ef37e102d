"""Frames of the card's decoder are those of the processor's, or the processor decodes.

Without a card, libavcodec's way to one and back runs against a driver that knows pictures by their bits
(scripted_card.c); what a real card makes of the bits is told by the test that needs one.
"""

import io
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from scripted_card import COMPILER, build_driver, load_driver, write_pictures
from test_seeking import LARGEST, SEEKABLE, VIDEOS, digest, moving_video, wanted_sets, x264

from tubelet.preprocess.canary import canary_video
from tubelet.preprocess.container import open_video
from tubelet.preprocess.decoders import PYAV, FrameDecoder, open_decoder
from tubelet.preprocess.guard import Guard
from tubelet.preprocess.nvdec import NvdecDecoder, open_nvdec
from tubelet.preprocess.prepare import Prepared, prepare_video
from tubelet.preprocess.streaming import encode_video
from tubelet.spec.errors import ContractError, LimitError, MachineError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.request import Request

CODED = {kind: options for kind, options in SEEKABLE.items() if options["codec"] in ("libx264", "libx265")}
"""Kinds of videos that are the card's."""
INTERLACED = "x264 interlaced"
BIG = 4e7
"""Pixels times frames of a shared file whose pictures are written out."""
ANY_SIZE = Limits(max_frame_pixels=2**26)


class Found(NamedTuple):
    """What reading some frames of a video gave."""

    digests: dict[int, str]
    decoder: str
    refusal: str
    num_restarts: int
    num_decoded: int


def read(decoder: FrameDecoder, video: bytes, wanted: Iterable[int], limits: Limits | None = None) -> Found:
    digests: dict[int, str] = {}
    restarts = []

    def restart() -> None:
        digests.clear()
        restarts.append(True)

    guard = Guard(limits or Limits())
    with decoder.open(video, guard) as source:
        reading = decoder.read_frames(
            source,
            guard,
            wanted=frozenset(wanted),
            take=lambda number, frame: digests.update({number: digest(frame)}),
            restart=restart,
        )
    return Found(digests, reading.decoder, reading.refusal, len(restarts), guard.frames_decoded)


# In the card's process.


@contextmanager
def fault_of_card(fault: str, at: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCRIPTED_CARD_FAULT", fault)
        patch.setenv("SCRIPTED_CARD_FAULT_AT", str(at))
        yield


def read_on_card(
    video: bytes, wanted: Iterable[int], fault: str = "", at: int = 0, limits: Limits | None = None
) -> list[Found]:
    """Of a video, and of the same video by the same decoder once the fault is over."""
    decoder = NvdecDecoder()
    with fault_of_card(fault, at):
        found = [read(decoder, video, wanted, limits)]
    if fault:
        found.append(read(decoder, video, wanted, limits))
    return found


def open_on_card(fault: str = "", at: int = 0) -> str:
    with fault_of_card(fault, at):
        try:
            open_nvdec()
        except MachineError as exc:
            return str(exc)
    return ""


def prepare_on_card(video: bytes, request: Request, contract: Contract, fault: str, at: int) -> Prepared:
    with fault_of_card(fault, at):
        return prepare_video(video, request, contract, Limits(), decoder=NvdecDecoder())


def encode_on_card(
    video: bytes, request: Request, contract: Contract, fault: str, at: int
) -> tuple[np.ndarray, str, int]:
    with fault_of_card(fault, at):
        found = encode_video(video, request, contract, Limits(), largest_batch=4, encode=flat, decoder=NvdecDecoder())
    return found.features, found.prepared.refusal, found.num_encoded


def flat(units: np.ndarray) -> np.ndarray:
    return units.reshape(len(units), -1).astype(np.float32)


def lose_a_frame(video: bytes, wanted: Iterable[int], at: int) -> Found:
    """The card's decoder swallows a frame."""

    class Losing(NvdecDecoder):
        def _decode(self, *args: Any) -> Any:
            return [surface for surface in super()._decode(*args) if surface.pts != stamps[at]]

    with open_video(video, Guard(Limits())) as source:
        stamps = source.pts
    return read(Losing(), video, wanted)


Card = Callable[..., Any]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None:
        pytest.skip("the driver without a card needs a C compiler")
    folder = tmp_path_factory.mktemp("card")
    build_driver(folder)
    return folder


@pytest.fixture(scope="module")
def card(driver: Path) -> Iterator[Card]:
    """Calls a function in a process that finds the driver, with the pictures of its videos in the card."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=load_driver, initargs=(driver,)) as pool:

        def call(function: Callable[..., Any], *args: Any, pictures: Iterable[bytes] | None = None) -> Any:
            if pictures is None:
                pictures = [argument for argument in args if isinstance(argument, bytes)]
            write_pictures(driver, *pictures)
            return pool.submit(function, *args).result()

        yield call


@pytest.mark.parametrize("kind", [kind for kind in CODED if kind != INTERLACED])
def test_frames_are_those_of_the_processor(card, kind):
    video = moving_video(**CODED[kind])
    for wanted in wanted_sets(90)[:4]:
        expected, (found,) = read(PYAV, video, wanted), card(read_on_card, video, wanted)
        assert found == expected._replace(decoder="nvdec")
        assert sorted(found.digests) == wanted


def shared_videos() -> list[Path]:
    return sorted(path for path in VIDEOS.glob("*") if path.suffix in (".mp4", ".mkv", ".mov", ".flv", ".264"))


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="needs the shared videos")
@pytest.mark.parametrize("path", shared_videos(), ids=lambda path: path.name)
def test_of_files_from_everywhere_too(card, path):
    """Cameras, phones, screens, rotations, ranges and rates; whatever the card cannot take, the processor does."""
    video = path.read_bytes()
    with open_video(video, Guard(ANY_SIZE)) as source:
        context = source.stream.codec_context
        num_frames, pixels = len(source.pts), context.width * context.height
        is_coded = context.name in ("h264", "hevc")
        is_plain = is_coded and source.seek_index is not None and context.pix_fmt in ("yuv420p", "yuvj420p")
    if pixels * num_frames > (BIG if is_plain else LARGEST):
        pytest.skip("its pictures fill too much room")
    wanted = wanted_sets(num_frames)[1]
    expected = read(PYAV, video, wanted)
    (found,) = card(read_on_card, video, wanted, pictures=[video] if is_plain else [])
    assert found.digests == expected.digests
    assert (found.decoder == "nvdec") == (is_plain and "interlaced" not in path.name)
    assert bool(found.refusal) == (found.decoder == "pyav")


def test_time_stamps_from_the_middle_lead_to_the_same_frames(card, make_contract):
    video = moving_video(**CODED["x264"])
    contract = make_contract(clip_frames=4, stride=2)
    for parameters in ({}, {"start_s": 1.3, "end_s": 2.4}, {"protocol": "4x3"}):
        request = Request.from_parameters(parameters, contract, Limits())
        expected = prepare_video(video, request, contract, Limits())
        found = card(prepare_on_card, video, request, contract, "", 0)
        assert_same(found, replace(expected, decoder="nvdec"))


def assert_same(found: Prepared, expected: Prepared) -> None:
    for name in Prepared.__slots__:
        if name != "milliseconds":
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def cropped(video: bytes, **sides: int) -> bytes:
    """The same pictures, of which a part is not to be shown."""
    filters = "h264_metadata=" + ":".join(f"crop_{side}={pixels}" for side, pixels in sides.items())
    out = io.BytesIO()
    with av.open(io.BytesIO(video), "r") as source, av.open(out, "w", format="mp4") as file:
        stream = source.streams.video[0]
        copy = file.add_stream_from_template(stream)
        change = BitStreamFilterContext(filters, stream, copy)
        for packet in (*source.demux(stream), None):
            if packet is None or packet.size:
                for changed in change.filter(packet):
                    changed.stream = copy
                    file.mux(changed)
    return out.getvalue()


@pytest.mark.parametrize("size", [(130, 98), (126, 94)])
def test_sides_that_are_no_whole_blocks_are_cut(card, size):
    video = moving_video(size=size, **x264())
    assert card(read_on_card, video, [50]) == [read(PYAV, video, [50])._replace(decoder="nvdec")]


@pytest.mark.parametrize(
    ("sides", "decoder"), [({"right": 6, "bottom": 4}, "nvdec"), ({"left": 6}, "pyav"), ({"top": 4}, "pyav")]
)
def test_pictures_that_begin_inside_a_surface_are_not_the_cards(card, sides, decoder):
    video = cropped(moving_video(**x264()), **sides)
    (found,) = card(read_on_card, video, [50])
    assert (found.decoder, found.refusal) == (decoder, "" if decoder == "nvdec" else "format")
    assert found.digests == read(PYAV, video, [50]).digests


REFUSED = {
    "codec": {"codec": "libvpx-vp9", "container": "webm"},
    "format": x264(pix_fmt="yuv420p10le"),
    "format, interlaced": CODED[INTERLACED],
    "stream": x264(container="mpegts"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_the_cards_the_processor_decodes(card, kind):
    video = moving_video(**REFUSED[kind])
    pictures = [video] if kind.startswith("format") else []
    (found,) = card(read_on_card, video, [40, 50], pictures=pictures)
    assert (found.decoder, found.refusal) == ("pyav", kind.split(",")[0])
    assert found.digests == read(PYAV, video, [40, 50]).digests
    assert found.num_restarts == 1


@pytest.mark.parametrize(
    ("fault", "at", "refusal"),
    [
        ("breaks", 0, "error"),
        ("breaks", 20, "error"),
        ("fills up", 0, "error"),
        ("gone", 0, "error"),
        ("refuses", 0, "format"),
    ],
)
def test_what_the_card_does_not_manage_the_processor_decodes(card, fault, at, refusal):
    video = moving_video(**CODED["x264"])
    expected = read(PYAV, video, range(60, 90))
    found, later = card(read_on_card, video, range(60, 90), fault, at)
    assert (found.decoder, found.refusal, found.num_restarts) == ("pyav", refusal, 1)
    assert found.digests == expected.digests
    assert later == expected._replace(decoder="nvdec")


@pytest.mark.parametrize("at", [1, 65, 89])
def test_a_frame_that_does_not_come_leads_to_the_processor(card, at):
    video = moving_video(**CODED["x264"])
    found = card(lose_a_frame, video, range(60, 90), at)
    assert (found.decoder, found.refusal) == ("pyav", "frames")
    assert found.digests == read(PYAV, video, range(60, 90)).digests


def test_a_fallback_in_the_middle_leaves_no_trace(card, make_contract):
    video = moving_video(**CODED["x264"])
    contract = make_contract(clip_frames=4, stride=2)
    request = Request.from_parameters({"protocol": "10x3"}, contract, Limits())
    expected = prepare_video(video, request, contract, Limits())
    found = card(prepare_on_card, video, request, contract, "breaks", 40)
    assert found.frames_decoded > expected.frames_decoded
    assert_same(found, replace(expected, refusal="error", frames_decoded=found.frames_decoded))


@pytest.mark.parametrize(("fault", "refusal"), [("", ""), ("breaks", "error")])
def test_units_that_are_encoded_as_they_come_are_the_same(card, make_vtn_contract, fault, refusal):
    video, contract = moving_video(**CODED["x264"]), make_vtn_contract()
    request = Request.from_parameters({"protocol": "10x3"}, contract, Limits())
    expected = encode_video(video, request, contract, Limits(), largest_batch=4, encode=flat)
    features, found_refusal, num_encoded = card(encode_on_card, video, request, contract, fault, 40)
    np.testing.assert_array_equal(features, expected.features)
    assert found_refusal == refusal
    assert (num_encoded > expected.num_encoded) == (fault == "breaks")


def test_limits_are_held_on_the_card_too(card):
    video = moving_video(**CODED["x264"])
    with pytest.raises(LimitError, match="max_decoded_frames"):
        card(read_on_card, video, [80], "", 0, Limits(max_decoded_frames=89))


def test_a_process_begins_with_a_card_that_decodes(card):
    assert card(open_on_card, pictures=[canary_video()]) == ""
    assert card(open_on_card, "refuses", pictures=[canary_video()]).startswith("missing: the card does not decode")
    assert card(open_on_card, "lies", 7, pictures=[canary_video()]).startswith("start_failed: the card decodes")


def test_without_a_driver_the_decoder_says_what_is_missing(monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise av.error.PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("tubelet.preprocess.nvdec.HWAccel", lambda *args, **kwargs: SimpleNamespace(create=refuse))
    with pytest.raises(MachineError, match=r"^missing: .*NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"):
        open_decoder("nvdec")


def test_there_are_two_decoders():
    assert open_decoder("pyav") is PYAV
    with pytest.raises(ContractError, match="got 'dali'"):
        open_decoder("dali")


@pytest.fixture
def real_card() -> FrameDecoder:
    try:
        return open_nvdec()
    except MachineError as exc:
        if os.environ.get("FAIL_WITHOUT_GPU") == "1":
            raise
        pytest.skip(str(exc))


@pytest.mark.needs_gpu
def test_a_real_cards_frames_are_those_of_the_processor(real_card):
    for kind, options in CODED.items():
        video = moving_video(size=(256, 192), **options)
        for wanted in wanted_sets(90):
            expected, found = read(PYAV, video, wanted), read(real_card, video, wanted)
            assert found.digests == expected.digests, kind
            assert (found.decoder == "nvdec") == (kind != INTERLACED), kind


@pytest.mark.needs_gpu
@pytest.mark.skipif(not VIDEOS.is_dir(), reason="needs the shared videos")
def test_of_a_real_card_and_files_from_everywhere_too(real_card):
    for path in shared_videos():
        video = path.read_bytes()
        with open_video(video, Guard(ANY_SIZE)) as source:
            wanted = wanted_sets(len(source.pts))[1]
        expected = read(PYAV, video, wanted, ANY_SIZE)
        found = read(real_card, video, wanted, ANY_SIZE)
        assert found.digests == expected.digests, path.name
        assert bool(found.refusal) == (found.decoder == "pyav"), path.name
