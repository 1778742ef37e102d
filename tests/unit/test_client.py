"""`VideoClassifier` against a real gRPC server that is told what to answer."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest
from numpy.typing import NDArray
from scripted_triton import ScriptedTriton, add_tensor, contract, ensemble, response, running
from tritonclient.grpc import model_config_pb2, service_pb2

from tubelet.clients import Classification, VideoClassifier
from tubelet.spec.errors import ContractError, InvalidRequestError, InvalidVideoError, LimitError, UnavailableError
from tubelet.spec.limits import Limits

LEFT = json.dumps([3.0, 1.0, 0.0, -1.0]).encode()
DOWN = json.dumps([0.0, 1.0, 2.0, 4.0]).encode()


@pytest.fixture
def triton() -> Iterator[ScriptedTriton]:
    with running(ScriptedTriton()) as scripted:
        yield scripted


def test_the_only_public_model_is_found_and_its_contract_read(triton: ScriptedTriton) -> None:
    step = model_config_pb2.ModelConfig(name="demo_sample", backend="python")
    step.parameters["contract"].string_value = "{}"
    other = model_config_pb2.ModelConfig(name="somebody_elses", platform="ensemble")
    frames = ensemble("demo")
    frames.name = "demo_frames"
    triton.models += [step, other, frames]
    with VideoClassifier(triton.url) as classifier:
        assert classifier.contract == contract()
        assert classifier.limits == Limits()


def test_a_video_comes_back_as_labels(triton: ScriptedTriton) -> None:
    with VideoClassifier(triton.url) as classifier:
        found = classifier.classify(LEFT, top=2)
    assert [(label.name, label.index) for label in found.labels] == [("left", 0), ("right", 1)]
    assert found.logits.tolist() == [3.0, 1.0, 0.0, -1.0]
    assert found.round_trip_ms > 0


def test_the_wishes_travel_as_parameters(triton: ScriptedTriton) -> None:
    with VideoClassifier(triton.url, model="demo") as classifier:
        classifier.classify(LEFT, protocol="4x3", start_s=1.5, end_s=2.25, deadline_s=7.5, top=99)
    (request,) = triton.requests
    sent = {name: value.string_param for name, value in request.parameters.items() if name != "timeout"}
    assert {name: value if name == "protocol" else float(value) for name, value in sent.items()} == {
        "protocol": "4x3",
        "start_s": 1.5,
        "end_s": 2.25,
        "deadline_ms": 7500.0,
    }
    assert request.parameters["timeout"].int64_param == 7_500_000
    asked = {output.name: output.parameters["classification"].int64_param for output in request.outputs}
    assert asked.pop("PROBABILITIES") == contract().num_classes
    assert set(asked) == {"LOGITS", "VIEW_LOGITS", "FRAME_TIMES", "CLIP_SPANS", "REPORT"}


def test_without_a_deadline_the_clients_or_the_servers_own_holds(triton: ScriptedTriton) -> None:
    triton.models = [ensemble(limits=Limits(default_deadline_s=20.0))]
    sent = []
    for timeout_s in (9.0, 300.0):
        with VideoClassifier(triton.url, timeout_s=timeout_s) as classifier:
            classifier.classify(LEFT)
        sent.append(float(triton.requests[-1].parameters["deadline_ms"].string_param))
    assert sent == [9000.0, 20_000.0]


def test_frames_go_to_the_other_ensemble(triton: ScriptedTriton) -> None:
    triton.infer = lambda request, context: response([1.0, 0.0, 0.0, 0.0])
    frames = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    with VideoClassifier(triton.url) as classifier:
        classifier.classify_frames(frames, fps=12.5)
    (request,) = triton.requests
    assert request.model_name == "demo_frames"
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in request.inputs] == [
        ("FRAMES", "UINT8", [2, 4, 6, 3]),
        ("FPS", "FP32", [1]),
    ]
    assert request.raw_input_contents[0] == frames.tobytes()
    assert np.frombuffer(request.raw_input_contents[1], np.float32) == 12.5


@pytest.fixture
def any_length() -> Iterator[ScriptedTriton]:
    """A model that takes any number of frames, and gives the features 0 to 159 of ten frames."""

    def infer(request: service_pb2.ModelInferRequest, _: object) -> service_pb2.ModelInferResponse:
        answer = response([3.0, 1.0, 0.0, -1.0])
        add_tensor(answer, "FEATURES", FEATURES)
        add_tensor(answer, "POSITIONS", POSITIONS)
        return answer

    with running(ScriptedTriton(models=[ensemble(any_length=True)], infer=infer)) as scripted:
        yield scripted


FEATURES = np.arange(160, dtype=np.float32).reshape(1, 10, 16)
POSITIONS = np.arange(10, dtype=np.int32)[None] * 3


def asked(request: service_pb2.ModelInferRequest) -> set[str]:
    return {output.name for output in request.outputs}


def test_features_come_and_go(any_length: ScriptedTriton) -> None:
    with VideoClassifier(any_length.url) as classifier:
        plain = classifier.classify(LEFT)
        found = classifier.classify(LEFT, with_features=True)
        assert found.features is not None
        again = classifier.classify_features(found.features, found.positions, deadline_s=3.0)
    assert (plain.features, plain.positions) == (None, None)
    np.testing.assert_array_equal(found.features, FEATURES)
    assert found.positions is not None
    np.testing.assert_array_equal(found.positions, POSITIONS)
    first, second, third = any_length.requests
    assert asked(second) - asked(first) == {"FEATURES", "POSITIONS"}
    assert asked(first) - asked(third) == {"FRAME_TIMES", "CLIP_SPANS"}
    assert third.model_name == "demo_features"
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in third.inputs] == [
        ("FEATURES", "FP32", [1, 10, 16]),
        ("POSITIONS", "INT32", [1, 10]),
    ]
    assert third.raw_input_contents[:] == [FEATURES.tobytes(), POSITIONS.tobytes()]
    assert set(third.parameters) == {"deadline_ms", "timeout"}
    assert (again.frame_times, again.clip_spans) == (None, None)


def test_chunks_and_frames_have_ways_of_their_own(any_length: ScriptedTriton) -> None:
    with VideoClassifier(any_length.url) as classifier:
        classifier.classify(LEFT, chunked=True, protocol="4x3")
        classifier.classify_frames(np.zeros((2, 8, 8, 3), np.uint8), fps=25.0, with_features=True)
    first, second = any_length.requests
    assert (first.model_name, second.model_name) == ("demo_chunked", "demo_frames")
    assert first.parameters["protocol"].string_param == "4x3"
    assert "FEATURES" in asked(second) - asked(first)


@pytest.mark.parametrize(
    ("features", "positions", "message"),
    [
        (FEATURES.astype(np.float64), POSITIONS, r"must be float32 \[V, n, 16\], got float64 \[1, 10, 16\]"),
        (FEATURES[0], POSITIONS, r"got float32 \[10, 16\]"),
        (FEATURES[:, :, 1:], POSITIONS, r"got float32 \[1, 10, 15\]"),
        (FEATURES, None, r"needs positions int32 \[1, 10\] of these features, got none"),
        (FEATURES, POSITIONS.astype(np.int64), r"got int64 \[1, 10\]"),
        (FEATURES, POSITIONS[:, 1:], r"got int32 \[1, 9\]"),
    ],
)
def test_what_are_no_features_is_not_sent(
    any_length: ScriptedTriton, features: NDArray[Any], positions: NDArray[Any] | None, message: str
) -> None:
    with VideoClassifier(any_length.url) as classifier, pytest.raises(InvalidRequestError, match=message):
        classifier.classify_features(features, positions)
    assert any_length.requests == []


def test_a_model_of_whole_clips_has_no_features(triton: ScriptedTriton) -> None:
    with VideoClassifier(triton.url) as classifier:
        for attempt in (
            lambda: classifier.classify(LEFT, chunked=True),
            lambda: classifier.classify(LEFT, with_features=True),
            lambda: classifier.classify_frames(np.zeros((2, 8, 8, 3), np.uint8), fps=25.0, with_features=True),
            lambda: classifier.classify_features(FEATURES, POSITIONS),
        ):
            with pytest.raises(InvalidRequestError, match="takes whole clips only"):
                attempt()
    assert triton.requests == []


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 4, 6, 3)), np.zeros((4, 6, 3), np.uint8), np.zeros((1, 4, 6, 1), "u1")]
)
def test_what_is_not_frames_is_not_sent(triton: ScriptedTriton, frames: NDArray[Any]) -> None:
    with VideoClassifier(triton.url) as classifier, pytest.raises(InvalidRequestError, match="uint8"):
        classifier.classify_frames(frames, fps=25.0)
    assert triton.requests == []


def test_a_file_is_read_and_its_size_checked_before_it_is_sent(triton: ScriptedTriton, tmp_path: Path) -> None:
    triton.models = [ensemble(limits=Limits(max_video_bytes=len(LEFT)))]
    fits, exceeds = tmp_path / "fits", tmp_path / "exceeds"
    fits.write_bytes(LEFT)
    exceeds.write_bytes(LEFT + b" ")
    with VideoClassifier(triton.url) as classifier:
        assert classifier.classify(fits).labels[0].name == "left"
        for video in (exceeds, exceeds.read_bytes()):
            with pytest.raises(LimitError, match=f"too_large: max_video_bytes is {len(LEFT)}"):
                classifier.classify(video)
    assert len(triton.requests) == 1


def test_a_file_that_cannot_be_read_is_a_bad_input(triton: ScriptedTriton, tmp_path: Path) -> None:
    with VideoClassifier(triton.url) as classifier:
        for video in (tmp_path / "absent.mp4", tmp_path / "null\0byte.mp4"):
            with pytest.raises(InvalidRequestError, match="bad_input: cannot read the file"):
                classifier.classify(video)


def test_pipes_devices_and_folders_are_never_opened(triton: ScriptedTriton, tmp_path: Path) -> None:
    """A pipe that nobody writes to would keep its reader waiting for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with VideoClassifier(triton.url) as classifier:
        for video in (pipe, Path("/dev/zero"), tmp_path):
            with pytest.raises(InvalidRequestError, match="is no regular file"):
                classifier.classify(video)
    assert triton.requests == []


def test_another_digest_than_expected_is_refused_before_any_video(triton: ScriptedTriton) -> None:
    digest = contract().digest
    VideoClassifier(triton.url, expect_digest=digest).close()
    with pytest.raises(ContractError, match=digest):
        VideoClassifier(triton.url, expect_digest="sha256:" + "0" * 64)
    assert triton.requests == []


@pytest.mark.parametrize(
    "changes",
    [
        {"contract_digest": "sha256:" + "0" * 64},
        {"contract": "{"},
        {"contract": json.dumps({"schema_version": 2})},
        {"limits": json.dumps({"max_views": 1})},
    ],
)
def test_a_contract_that_does_not_hold_together_is_refused(triton: ScriptedTriton, changes: dict[str, str]) -> None:
    triton.models = [ensemble(**changes)]  # type: ignore[arg-type]
    with pytest.raises(ContractError):
        VideoClassifier(triton.url)


def test_an_unknown_model_names_those_that_exist(triton: ScriptedTriton) -> None:
    triton.models.append(ensemble("other"))
    with pytest.raises(InvalidRequestError, match="no model 'demmo'; the server has demo, other"):
        VideoClassifier(triton.url, model="demmo")
    with pytest.raises(InvalidRequestError, match="name one of demo, other"):
        VideoClassifier(triton.url)


def test_an_inner_step_is_no_model_for_callers(triton: ScriptedTriton) -> None:
    triton.models.append(model_config_pb2.ModelConfig(name="demo_units", backend="python"))
    with pytest.raises(InvalidRequestError, match="inner step"):
        VideoClassifier(triton.url, model="demo_units")


@pytest.mark.parametrize("model", [None, "demo"])
def test_a_server_without_ready_models_is_unavailable(triton: ScriptedTriton, model: str | None) -> None:
    triton.models = []
    with pytest.raises(UnavailableError):
        VideoClassifier(triton.url, model=model)


def test_a_client_finds_the_server_again_after_a_restart() -> None:
    with running(ScriptedTriton()) as first:
        url = first.url
        classifier = VideoClassifier(url)
        assert classifier.classify(LEFT).labels[0].name == "left"
    with pytest.raises(UnavailableError):
        classifier.classify(LEFT)
    with running(ScriptedTriton(), address=url):
        assert _once_back(classifier).labels[0].name == "left"
    classifier.close()


def _once_back(classifier: VideoClassifier) -> Classification:
    """Asks until the channel has connected again; gRPC itself paces it, the test's time limit bounds it."""
    while True:
        try:
            return classifier.classify(LEFT)
        except UnavailableError:
            continue


def test_threads_share_a_client_and_one_wrong_video_fails_alone(triton: ScriptedTriton) -> None:
    together = threading.Barrier(8)
    answer = triton.infer

    def all_at_once(
        request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        together.wait(60)
        return answer(request, context)

    triton.infer = all_at_once
    videos = [LEFT, DOWN, LEFT, json.dumps("in ensemble 'demo', truncated: no frame").encode(), DOWN, LEFT, DOWN, LEFT]
    with VideoClassifier(triton.url) as classifier, ThreadPoolExecutor(8) as executor:
        futures = [executor.submit(classifier.classify, video) for video in videos]
        errors = [future.exception() for future in futures]
    assert [type(error) for error in errors if error is not None] == [InvalidVideoError]
    best = [future.result().labels[0].name for future, error in zip(futures, errors, strict=True) if error is None]
    assert best == ["left", "down", "left", "down", "left", "down", "left"]


def test_closing_ends_the_calls_that_are_under_way(triton: ScriptedTriton) -> None:
    arrived = threading.Event()

    def never(_: object, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        gone = threading.Event()
        assert context.add_callback(gone.set)
        arrived.set()
        gone.wait()
        return service_pb2.ModelInferResponse()

    triton.infer = never
    classifier = VideoClassifier(triton.url)
    with ThreadPoolExecutor(1) as executor:
        call = executor.submit(classifier.classify, LEFT)
        assert arrived.wait(60)
        classifier.close()
        assert isinstance(call.exception(), UnavailableError)


def test_no_label_at_all_is_a_wrong_wish(triton: ScriptedTriton) -> None:
    with VideoClassifier(triton.url) as classifier, pytest.raises(InvalidRequestError, match="top"):
        classifier.classify(LEFT, top=0)
