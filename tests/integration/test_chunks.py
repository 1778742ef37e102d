"""The three modes of VTN's paper, end to end, in chunks and from features, give one answer: through a real Triton."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import av
import numpy as np
import pytest
import tritonclient.grpc
from numpy.typing import NDArray
from real_server import Serving

from tubelet.clients import Classification, VideoClassifier
from tubelet.export.repository import write_repository
from tubelet.preprocess.canary import canary_video
from tubelet.spec.errors import DeadlineError, InvalidRequestError, InvalidVideoError, LimitError
from tubelet.spec.limits import Limits

pytestmark = pytest.mark.needs_triton

PROTOCOLS = ["1x1", "4x3", "7x1", "full", "full20", "full300"]
CANARY_ATOL = 2e-5
"""Alone, chunks are the encoder's own batches, and the bits are equal; a canary that shares one may round otherwise."""


@pytest.fixture(scope="module")
def vtn_server(demo_bundle: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    repository = tmp_path_factory.mktemp("repository")
    limits = Limits(max_views=12, max_units=1000, default_deadline_s=120.0)
    write_repository([demo_bundle("motion_vtn")], target="cpu", out=repository, limits=limits)
    with Serving(repository) as serving:
        yield serving


@pytest.fixture(scope="module")
def vtn(vtn_server: Serving) -> Iterator[VideoClassifier]:
    with vtn_server.classifier() as classifier:
        yield classifier


@pytest.fixture(scope="module")
def video(clips: Path) -> bytes:
    with (clips / "labels.csv").open() as file:
        return (clips / next(csv.DictReader(file))["video"]).read_bytes()


def assert_alike(found: Classification, expected: Classification, *, atol: float) -> None:
    for name in ("logits", "view_logits", "attention", "features"):
        one, other = getattr(found, name), getattr(expected, name)
        if one is not None and other is not None:
            np.testing.assert_allclose(one, other, rtol=0, atol=atol, err_msg=name)
    assert [label.index for label in found.labels] == [label.index for label in expected.labels]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_three_modes_give_one_answer(vtn: VideoClassifier, video: bytes, tmp_path: Path, protocol: str) -> None:
    whole = vtn.classify(video, protocol=protocol, with_features=True)
    chunked = vtn.classify(video, protocol=protocol, with_features=True, chunked=True)
    assert_alike(chunked, whole, atol=CANARY_ATOL)
    for name in ("positions", "frame_times", "clip_spans"):
        np.testing.assert_array_equal(getattr(chunked, name), getattr(whole, name), err_msg=name)
    for name in ("protocol", "warnings", "frames_decoded", "views", "units_wanted", "units_encoded"):
        assert getattr(chunked.report, name) == getattr(whole.report, name), name

    assert whole.features is not None
    assert whole.positions is not None
    np.savez(tmp_path / "features.npz", features=whole.features, positions=whole.positions)
    with np.load(tmp_path / "features.npz") as stored:
        later = vtn.classify_features(stored["features"], stored["positions"])
    assert_alike(later, whole, atol=0)  # the same numbers go through the same graph, alone
    assert (later.report.protocol, later.report.views) == ("features", whole.report.views)
    assert (later.report.units_wanted, later.report.units_encoded) == (whole.report.units_wanted, 0)
    assert (later.frame_times, later.clip_spans) == (None, None)


@pytest.mark.parametrize("chunked", [False, True])
def test_features_without_views(vtn: VideoClassifier, video: bytes, chunked: bool) -> None:
    whole = vtn.classify(video, protocol="4x3", with_features=True)
    brief = vtn.classify(video, protocol="4x3", with_features=True, with_views=False, chunked=chunked)
    assert whole.attention is not None
    assert (brief.attention, len(brief.view_logits)) == (None, 0)
    np.testing.assert_allclose(brief.logits, whole.logits, rtol=0, atol=CANARY_ATOL)
    np.testing.assert_allclose(brief.features, whole.features, rtol=0, atol=CANARY_ATOL)  # type: ignore[arg-type]


def test_the_readme_is_true(vtn_server: Serving, video: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs what the README says of stored features as it stands, but for the port."""
    blocks = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "motion_vtn" in block]
    (tmp_path / "clip.mp4").write_bytes(video)
    monkeypatch.chdir(tmp_path)
    program = block.replace("localhost:8001", vtn_server.ready["grpc"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 2


@pytest.mark.parametrize("protocol", ["4x3", "full20"])
def test_decoded_frames_give_it_too(vtn: VideoClassifier, video: bytes, protocol: str) -> None:
    with av.open(io.BytesIO(video), "r") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        fps = float(container.streams.video[0].average_rate or 0)
    whole = vtn.classify(video, protocol=protocol, with_features=True)
    of_frames = vtn.classify(np.stack(frames).astype(np.uint8), fps=fps, protocol=protocol, with_features=True)
    assert_alike(of_frames, whole, atol=CANARY_ATOL)
    np.testing.assert_allclose(of_frames.clip_spans, whole.clip_spans, atol=1e-3)  # type: ignore[arg-type]


def test_a_part_of_a_video_is_the_same_part_in_chunks(vtn: VideoClassifier, video: bytes) -> None:
    part = {"protocol": "full20", "start_s": 0.2, "end_s": 0.6}
    whole, chunked = (vtn.classify(video, chunked=chunked, **part) for chunked in (False, True))  # type: ignore[arg-type]
    assert_alike(chunked, whole, atol=CANARY_ATOL)
    assert chunked.clip_spans is not None
    assert 0.2 <= chunked.clip_spans[0, 0] < chunked.clip_spans[0, 1] < 0.65


@pytest.mark.parametrize(
    ("wishes", "error", "message"),
    [
        ({"protocol": "3x2"}, InvalidRequestError, "no protocol '3x2'"),
        ({"protocol": "13x1"}, LimitError, "max_views is 12"),
        ({"start_s": 100.0}, InvalidRequestError, "no frame lies between"),
        ({"deadline_s": 0.001}, DeadlineError, "deadline_exceeded"),
    ],
)
def test_chunks_refuse_what_is_refused_without(
    vtn: VideoClassifier, video: bytes, wishes: Any, error: type, message: str
) -> None:
    for chunked in (False, True):
        with pytest.raises(error, match=message):
            vtn.classify(video, chunked=chunked, **wishes)
    with pytest.raises(InvalidVideoError):
        vtn.classify(b"not a video", chunked=True)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((13, 4, 96), "too_many_views: 13 views came, max_views is 12"),
        ((1, 1001, 96), "too_many_views: FEATURES of 1 views of 1001 units came"),
        ((2, 600, 96), "too_many_views: .*all views together at most 1000"),
    ],
)
def test_features_keep_to_the_limits(vtn: VideoClassifier, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(LimitError, match=message):
        vtn.classify_features(np.zeros(shape, np.float32), np.zeros(shape[:2], np.int32))


def test_features_that_are_no_numbers_are_refused(vtn: VideoClassifier) -> None:
    features = np.full((1, 16, 96), np.inf, np.float32)
    with pytest.raises(InvalidRequestError, match="FEATURES must be finite"):
        vtn.classify_features(features, np.zeros((1, 16), np.int32))
    with pytest.raises(InvalidRequestError, match="POSITIONS must give"):
        vtn.classify_features(np.zeros((1, 16, 96), np.float32), np.full((1, 16), -1, np.int32))


def ask(server: Serving, way: str, tensors: dict[str, NDArray[Any]], names: list[str], **parameters: str) -> list[str]:
    """A request of any KServe v2 client; returns the names that came."""
    inputs = []
    for name, array in tensors.items():
        datatype = {"O": "BYTES", "f": "FP32", "i": "INT32"}[array.dtype.kind]
        inputs.append(tritonclient.grpc.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array)
    outputs = [tritonclient.grpc.InferRequestedOutput(name) for name in names]
    with tritonclient.grpc.InferenceServerClient(server.ready["grpc"]) as client:
        answer = client.infer(way, inputs, outputs=outputs, parameters=parameters)
    return [output.name for output in answer.get_response().outputs]


@pytest.mark.parametrize("way", ["motion_vtn", "motion_vtn_chunked"])
def test_each_output_can_be_asked_for_alone(vtn_server: Serving, video: bytes, way: str) -> None:
    tensors = {"VIDEO": np.array([video], dtype=np.object_)}
    for name in ("LOGITS", "VIEW_LOGITS", "ATTENTION", "FRAME_TIMES", "CLIP_SPANS", "FEATURES", "POSITIONS", "REPORT"):
        assert ask(vtn_server, way, tensors, [name]) == [name]


def test_parameters_that_features_cannot_heed_are_refused(vtn_server: Serving) -> None:
    tensors = {"FEATURES": np.zeros((1, 16, 96), np.float32), "POSITIONS": np.zeros((1, 16), np.int32)}
    assert ask(vtn_server, "motion_vtn_features", tensors, ["LOGITS"], deadline_ms="5000") == ["LOGITS"]
    with pytest.raises(
        tritonclient.utils.InferenceServerException, match=r"bad_parameter: .*protocol cannot be heeded"
    ):
        ask(vtn_server, "motion_vtn_features", tensors, ["LOGITS"], protocol="4x3")


def test_units_are_counted_on_every_way(vtn_server: Serving, vtn: VideoClassifier, video: bytes) -> None:
    names = ("units_wanted", "units_encoded", "features_reused")

    def counters() -> NDArray[np.int64]:
        with urlopen(vtn_server.ready["metrics"]) as answer:
            lines = answer.read().decode().splitlines()
        found = {line.split("{")[0]: float(line.split()[-1]) for line in lines if "tubelet_" in line and "{" in line}
        return np.array([found.get(f"tubelet_{name}_total", 0) for name in names], np.int64)

    canary = vtn.classify(canary_video(), protocol="1x1").report
    before = counters()
    chunked = vtn.classify(video, protocol="4x3", with_features=True, chunked=True)
    assert chunked.features is not None
    vtn.classify_features(chunked.features, chunked.positions)
    wanted, encoded, reused = counters() - before
    report = chunked.report
    assert report.units_wanted == 12 * 16 > report.units_encoded
    assert reused == report.units_wanted
    # The server's own canaries may have come in between.
    canaries, rest = divmod(wanted - 2 * report.units_wanted, canary.units_wanted)
    assert rest == 0
    assert encoded == report.units_encoded + canaries * canary.units_encoded
