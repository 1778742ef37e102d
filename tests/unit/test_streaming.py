"""Units that are encoded as their frames come are those that are cut out of frames that were kept."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tubelet.preprocess import streaming
from tubelet.preprocess.geometry import cut_units
from tubelet.preprocess.guard import Guard
from tubelet.preprocess.prepare import prepare_video
from tubelet.preprocess.streaming import EncodedVideo, encode_video
from tubelet.spec.errors import DeadlineError, InvalidVideoError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.request import Request

AVI = {"container": "avi", "codec": "mpeg4"}
STREAM = {"container": "mpegts"}


def pixels_of(units: NDArray[np.uint8]) -> NDArray[np.float32]:
    return units.reshape(len(units), -1).astype(np.float32)


@pytest.mark.parametrize("protocol", ["1x1", "10x3", "full", "full7", "full999"])
@pytest.mark.parametrize("video_options", [{}, AVI, STREAM])
def test_the_units_are_those_of_frames_that_are_kept(make_video, make_vtn_contract, video_options, protocol):
    video = make_video(100, **video_options)
    assert_same(video, make_vtn_contract(), protocol)


def test_crops_that_are_one_window_are_encoded_once(make_video, make_vtn_contract):
    found = assert_same(make_video(100, size=(64, 64)), make_vtn_contract(), "10x3")
    assert len(found.features) == len(found.prepared.unit_frames)


@pytest.mark.parametrize("kept", [0.6, 0.9])
def test_of_streams_that_break_off_too(make_video, make_vtn_contract, kept):
    video = make_video(100, **STREAM)
    assert_same(video[: int(kept * len(video))], make_vtn_contract(), "full7")


def test_frames_that_were_expected_in_vain_leave_no_trace(make_video, make_vtn_contract):
    """The header promises 100 frames, fewer come out, so others are needed than those that were encoded at once."""
    video = make_video(100, muxer=(("moov_size", "8192"),))
    found = assert_same(video[: int(0.9 * len(video))], make_vtn_contract(), "full7")
    assert found.num_encoded > 7 == len(found.features)


def assert_same(video: bytes, contract: Contract, protocol: str) -> EncodedVideo:
    contract, limits = replace(contract, protocols=("CxR", "full", "fullN")), Limits()
    request = Request.from_parameters({"protocol": protocol}, contract, limits)
    sizes = []

    def encode(units: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(units))
        return pixels_of(units)

    found = encode_video(video, request, contract, limits, largest_batch=7, encode=encode)
    kept = prepare_video(video, request, contract, limits)
    units = cut_units(kept.frames, kept.unit_frames, kept.crops, size_px=contract.crop.size_px)
    np.testing.assert_array_equal(found.features, pixels_of(units))
    for name in ("unit_frames", "clip_units", "clip_positions", "crops", "frame_times", "clip_spans"):
        np.testing.assert_array_equal(getattr(found.prepared, name), getattr(kept, name))
    assert found.prepared.warnings == kept.warnings
    assert found.prepared.frames_decoded == kept.frames_decoded
    assert found.prepared.frames.shape == (0, *kept.frames.shape[1:])
    assert found.num_encoded == sum(sizes) >= len(units)
    assert max(sizes) <= 7
    return found


def test_what_is_no_video_is_refused_as_ever(make_vtn_contract):
    contract = make_vtn_contract()
    request = Request.from_parameters({}, contract, Limits())
    with pytest.raises(InvalidVideoError):
        encode_video(b"not a video", request, contract, Limits(), largest_batch=4, encode=pixels_of)


def test_the_time_to_encode_is_no_time_to_decode(make_video, make_vtn_contract, monkeypatch):
    """Each batch takes half an hour here; ``decode_timeout_s`` is a minute."""
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr(streaming, "Guard", partial(Guard, started=1000.0))
    contract, limits = make_vtn_contract(), Limits()
    request = Request.from_parameters({}, contract, limits)

    def encode(units: NDArray[np.uint8]) -> NDArray[np.float32]:
        clock[0] += 1800
        return pixels_of(units)

    given = partial(encode_video, make_video(100), request, contract, limits, largest_batch=40, encode=encode)
    found = given()
    assert found.encode_s == 3 * 1800
    assert found.prepared.milliseconds == {"decode": 0.0, "resize": 0.0}
    clock[0] = 1000.0
    with pytest.raises(DeadlineError):
        given(deadline=1001.0)
    assert clock == [2800.0]


MEASURE = """
import json, pathlib, resource, sys
import numpy as np
from conftest import small_vtn_contract
from dataclasses import replace
from tubelet.preprocess.streaming import encode_video
from tubelet.spec.limits import Limits
from tubelet.spec.request import Request

contract = small_vtn_contract(span_s=None)
contract = replace(
    contract,
    protocols=("full", "fullN"),
    resize=replace(contract.resize, short_side_px=112, short_side_three_crops_px=112),
    crop=replace(contract.crop, size_px=112),
)
encode = lambda units: np.zeros((len(units), 8), np.float32)
peaks = []
for name in sys.argv[1:]:
    request = Request.from_parameters({"protocol": "full4000"}, contract, Limits())
    found = encode_video(pathlib.Path(name).read_bytes(), request, contract, Limits(), largest_batch=16, encode=encode)
    peaks.append((found.num_encoded, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
print(json.dumps(peaks))
"""


def test_memory_does_not_grow_with_the_number_of_frames(make_video, tmp_path):
    """3800 frames more, of 112x168 each, would be 214 MB; what grows is a few MB of numbers and encoded bytes."""
    names = []
    for num_frames in (200, 4000):
        names.append(tmp_path / f"{num_frames}.mp4")
        names[-1].write_bytes(make_video(num_frames))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *names],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    (few, small_mb), (many, large_mb) = json.loads(done.stdout)
    assert (few, many) == (200, 4000)
    assert large_mb - small_mb < 24
