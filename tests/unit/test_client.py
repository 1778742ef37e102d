"""`VideoClassifier` against a real gRPC server that is told what to answer."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest
from numpy.typing import NDArray
from scripted_triton import REPORT, ScriptedTriton, add_tensor, contract, ensemble, fail, response, running, video_of
from tritonclient.grpc import model_config_pb2, service_pb2

from tubelet.clients import Classification, Retries, Timeouts, Tls, VideoClassifier
from tubelet.spec.errors import (
    ContractError,
    DeadlineError,
    InvalidRequestError,
    InvalidVideoError,
    LimitError,
    OverloadedError,
    TubeletError,
    UnavailableError,
)
from tubelet.spec.limits import Limits
from tubelet.spec.priorities import QUEUE_SHARE

FRAMES = np.zeros((2, 4, 6, 3), np.uint8)
LEFT = json.dumps([3.0, 1.0, 0.0, -1.0]).encode()
DOWN = json.dumps([0.0, 1.0, 2.0, 4.0]).encode()


class Trickle(io.RawIOBase):
    """A file that gives a byte at a time, as a pipe or a socket may."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 1))


class NonBlocking(io.RawIOBase):
    """A file that has nothing to give at the moment."""

    def read(self, size: int = -1) -> None:
        return None


def closed_file() -> io.BytesIO:
    file = io.BytesIO(LEFT)
    file.close()
    return file


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
        described = classifier.describe()
    assert (described.name, described.contract, described.limits) == ("demo", contract(), Limits())


def test_a_video_comes_back_as_labels(triton: ScriptedTriton) -> None:
    with VideoClassifier(triton.url) as classifier:
        found = classifier.classify(LEFT, top=2)
    assert [(label.name, label.index) for label in found.labels] == [("left", 0), ("right", 1)]
    assert found.logits.tolist() == [3.0, 1.0, 0.0, -1.0]
    assert found.round_trip_ms > 0


def test_the_wishes_travel_as_parameters(triton: ScriptedTriton) -> None:
    with VideoClassifier(triton.url, model="demo") as classifier:
        classifier.classify(LEFT, protocol="4x3", start_s=1.5, end_s=2.25, deadline_s=7.5, top=99)
        classifier.classify(LEFT, priority="archive")
    request, can_wait = triton.requests
    sent = {name: value.string_param for name, value in request.parameters.items() if value.HasField("string_param")}
    assert {name: value if name == "protocol" else float(value) for name, value in sent.items()} == {
        "protocol": "4x3",
        "start_s": 1.5,
        "end_s": 2.25,
        "deadline_ms": pytest.approx(7500, abs=500),  # what is left of it
    }
    assert request.parameters["timeout"].int64_param == pytest.approx(
        QUEUE_SHARE * float(sent["deadline_ms"]) * 1000, abs=1
    )
    assert [asked.parameters["priority"].uint64_param for asked in (request, can_wait)] == [1, 2]
    asked = {output.name: output.parameters["classification"].int64_param for output in request.outputs}
    assert asked.pop("PROBABILITIES") == contract().num_classes
    assert set(asked) == {"LOGITS", "VIEW_LOGITS", "FRAME_TIMES", "CLIP_SPANS", "REPORT"}


def test_without_a_deadline_the_clients_or_the_servers_own_holds(triton: ScriptedTriton) -> None:
    triton.models = [ensemble(limits=Limits(default_deadline_s=20.0))]
    sent = []
    for timeout_s in (9.0, 300.0):
        with VideoClassifier(triton.url, timeouts=Timeouts(request_s=timeout_s)) as classifier:
            classifier.classify(LEFT)
        sent.append(float(triton.requests[-1].parameters["deadline_ms"].string_param))
    assert sent == [9000.0, 20_000.0]


def test_frames_go_to_the_other_ensemble(triton: ScriptedTriton) -> None:
    triton.infer = lambda request, context: response([1.0, 0.0, 0.0, 0.0])
    frames = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    with VideoClassifier(triton.url) as classifier:
        classifier.classify(frames, fps=12.5)
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
    assert set(third.parameters) == {"deadline_ms", "priority", "timeout"}
    assert (again.frame_times, again.clip_spans) == (None, None)


def test_chunks_and_frames_have_ways_of_their_own(any_length: ScriptedTriton) -> None:
    with VideoClassifier(any_length.url) as classifier:
        classifier.classify(LEFT, chunked=True, protocol="4x3")
        classifier.classify(np.zeros((2, 8, 8, 3), np.uint8), fps=25.0, with_features=True)
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
            lambda: classifier.classify(np.zeros((2, 8, 8, 3), np.uint8), fps=25.0, with_features=True),
            lambda: classifier.classify_features(FEATURES, POSITIONS),
        ):
            with pytest.raises(InvalidRequestError, match="takes whole clips only"):
                attempt()
    assert triton.requests == []


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, io.BytesIO, Trickle], ids=lambda wrap: wrap.__name__)
def test_a_video_may_come_as_any_kind_of_bytes(triton: ScriptedTriton, wrap: Callable[[bytes], Any]) -> None:
    with VideoClassifier(triton.url) as classifier:
        assert classifier.classify(wrap(LEFT)).labels[0].name == "left"
    assert video_of(triton.requests[0]) == LEFT


def test_an_open_file_is_read_from_where_it_stands(triton: ScriptedTriton, tmp_path: Path) -> None:
    path = tmp_path / "video"
    path.write_bytes(b"junk" + DOWN)
    with VideoClassifier(triton.url) as classifier, path.open("rb") as file:
        file.seek(4)
        assert classifier.classify(file).labels[0].name == "down"


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (io.StringIO("text"), {}, "binary mode"),
        (closed_file(), {}, "cannot read the file that was given"),
        (NonBlocking(), {}, "and blocking"),
        (7, {}, "got int"),
        ((part for part in [LEFT]), {}, "got generator"),
        (SimpleNamespace(read=None), {}, "got SimpleNamespace"),
        (LEFT, {"fps": 25.0}, "fps is of decoded frames"),
        (FRAMES, {}, "need fps, a positive number, got None"),
        (FRAMES, {"fps": 0.0}, "need fps"),
        (FRAMES, {"fps": "25"}, "need fps"),
        (FRAMES, {"fps": 1e300}, "need fps"),
        (FRAMES, {"fps": 25.0, "chunked": True}, "chunked is of encoded videos"),
    ],
)
def test_what_is_no_source_is_not_sent(triton: ScriptedTriton, source: Any, options: Any, message: str) -> None:
    with VideoClassifier(triton.url) as classifier, pytest.raises(InvalidRequestError, match=message):
        classifier.classify(source, **options)
    assert triton.requests == []


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 4, 6, 3)), np.zeros((4, 6, 3), np.uint8), np.zeros((1, 4, 6, 1), "u1")]
)
def test_what_is_not_frames_is_not_sent(triton: ScriptedTriton, frames: NDArray[Any]) -> None:
    with VideoClassifier(triton.url) as classifier, pytest.raises(InvalidRequestError, match="uint8"):
        classifier.classify(frames, fps=25.0)
    assert triton.requests == []


def test_a_file_is_read_and_its_size_checked_before_it_is_sent(triton: ScriptedTriton, tmp_path: Path) -> None:
    triton.models = [ensemble(limits=Limits(max_video_bytes=len(LEFT)))]
    fits, exceeds = tmp_path / "fits", tmp_path / "exceeds"
    fits.write_bytes(LEFT)
    exceeds.write_bytes(LEFT + b" ")
    with VideoClassifier(triton.url) as classifier:
        assert classifier.classify(fits).labels[0].name == "left"
        for video in (exceeds, str(exceeds), exceeds.read_bytes(), bytearray(exceeds.read_bytes())):
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
    with VideoClassifier(triton.url, expect_digest=digest) as classifier:
        assert classifier.describe().contract.digest == digest
    with VideoClassifier(triton.url, expect_digest="sha256:" + "0" * 64) as classifier:
        for attempt in (classifier.describe, lambda: classifier.classify(LEFT)):
            with pytest.raises(ContractError, match=digest):
                attempt()
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
    with VideoClassifier(triton.url) as classifier, pytest.raises(ContractError):
        classifier.classify(LEFT)
    assert triton.requests == []


def test_an_unknown_model_names_those_that_exist(triton: ScriptedTriton) -> None:
    triton.models.append(ensemble("other"))
    with VideoClassifier(triton.url) as classifier:
        assert classifier.models() == ("demo", "other")
        with pytest.raises(InvalidRequestError, match="no model 'demmo'; the server has demo, other"):
            classifier.describe("demmo")
        with pytest.raises(InvalidRequestError, match="name one of demo, other"):
            classifier.describe()
        assert classifier.classify(LEFT, model="other").model == "other"


def test_an_inner_step_is_no_model_for_callers(triton: ScriptedTriton) -> None:
    triton.models.append(model_config_pb2.ModelConfig(name="demo_units", backend="python"))
    with (
        VideoClassifier(triton.url, model="demo_units") as classifier,
        pytest.raises(InvalidRequestError, match="inner step"),
    ):
        classifier.describe()


@pytest.mark.parametrize("model", [None, "demo"])
def test_a_server_without_ready_models_is_unavailable(triton: ScriptedTriton, model: str | None) -> None:
    triton.models = []
    with VideoClassifier(triton.url, model=model) as classifier, pytest.raises(UnavailableError):
        classifier.describe()


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


def failing(times: int, code: grpc.StatusCode, text: str) -> Callable[..., service_pb2.ModelInferResponse]:
    """Fails so often, then answers."""
    left = iter(range(times))

    def infer(request: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        if next(left, None) is not None:
            fail(context, code, text)
        return response([3.0, 1.0, 0.0, -1.0])

    return infer


QUICK = Retries(attempts=3, first_pause_s=0.001, most_pause_s=0.001)
OVERLOADED = (grpc.StatusCode.UNAVAILABLE, "in ensemble 'demo', [request id: 1] Exceeds maximum queue size")
LOST = (grpc.StatusCode.INTERNAL, "Stub process 'demo_sample_0_0' is not healthy.")


@pytest.mark.parametrize("error", [OVERLOADED, LOST])
def test_what_may_pass_is_tried_again_with_the_same_bytes(triton: ScriptedTriton, error: Any) -> None:
    triton.infer = failing(2, *error)
    with VideoClassifier(triton.url, retries=QUICK) as classifier:
        assert classifier.classify(io.BytesIO(LEFT), deadline_s=60.0).labels[0].name == "left"
    assert [video_of(request) for request in triton.requests] == [LEFT] * 3
    left_ms = [float(request.parameters["deadline_ms"].string_param) for request in triton.requests]
    assert left_ms == sorted(left_ms, reverse=True)
    assert len(set(left_ms)) == 3


@pytest.mark.parametrize("attempts", [1, 2])
def test_attempts_are_counted(triton: ScriptedTriton, attempts: int) -> None:
    triton.infer = failing(attempts, *OVERLOADED)
    retries = Retries(attempts=attempts, first_pause_s=0.001)
    with VideoClassifier(triton.url, retries=retries) as classifier, pytest.raises(OverloadedError):
        classifier.classify(LEFT)
    assert len(triton.requests) == attempts


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "in ensemble 'demo', not_a_video: nothing"),
        (grpc.StatusCode.INTERNAL, "in ensemble 'demo', internal: the log says why"),
        (grpc.StatusCode.INTERNAL, "in ensemble 'demo', deadline_exceeded: over"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too big"),
    ],
)
def test_what_would_fail_again_is_not_tried_again(triton: ScriptedTriton, code: Any, text: str) -> None:
    triton.infer = failing(1, code, text)
    with VideoClassifier(triton.url, retries=QUICK) as classifier, pytest.raises(TubeletError):
        classifier.classify(LEFT)
    assert len(triton.requests) == 1


@pytest.mark.parametrize("bound", ["total_s", "deadline_s"])
def test_no_attempt_begins_after_the_end_of_the_calls_time(triton: ScriptedTriton, bound: str) -> None:
    """The pauses are far longer than the time: were it not looked at, the test would not end."""
    triton.infer = failing(10**9, *OVERLOADED)
    timeouts = Timeouts(total_s=0.5) if bound == "total_s" else Timeouts()
    retries = Retries(attempts=10**9, first_pause_s=1e6, most_pause_s=1e6)
    deadline_s = 0.5 if bound == "deadline_s" else None
    with VideoClassifier(triton.url, timeouts=timeouts, retries=retries) as classifier, pytest.raises(OverloadedError):
        classifier.classify(LEFT, deadline_s=deadline_s)


@pytest.mark.parametrize("name", ["connect_s", "question_s", "request_s", "total_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_times_are_positive_and_finite(name: str, value: float) -> None:
    with pytest.raises(InvalidRequestError, match=f"Timeouts: {name}"):
        Timeouts(**{name: value})


@pytest.mark.parametrize("options", [{"attempts": 0}, {"first_pause_s": 0.0}, {"first_pause_s": 9.0}])
def test_retries_that_mean_nothing_are_refused(options: Any) -> None:
    with pytest.raises(InvalidRequestError, match="Retries"):
        Retries(**options)


@pytest.mark.parametrize("scheme", ["", "grpcs://", "https://"])
def test_a_server_that_accepts_and_says_nothing_is_given_up(scheme: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"{scheme}127.0.0.1:{listener.getsockname()[1]}"
        timeouts = Timeouts(connect_s=0.2, question_s=400.0)  # more than the test itself has
        with (
            VideoClassifier(url, timeouts=timeouts, retries=QUICK) as classifier,
            pytest.raises(UnavailableError, match="no server answers"),
        ):
            classifier.describe()


def test_a_question_has_its_own_time() -> None:
    """Over HTTP a connection stands as soon as it is accepted."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with VideoClassifier(url, timeouts=Timeouts(question_s=0.2)) as classifier, pytest.raises(DeadlineError):
            classifier.describe()


def test_headers_are_asked_for_before_every_call(triton: ScriptedTriton) -> None:
    seen: list[str] = []
    tokens = iter(f"Bearer {number}" for number in range(100))

    def infer(request: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        seen.append(dict(context.invocation_metadata())["authorization"])
        return response([3.0, 1.0, 0.0, -1.0])

    triton.infer = infer
    with VideoClassifier(triton.url, model="demo", headers=lambda: {"Authorization": next(tokens)}) as classifier:
        classifier.classify(LEFT)
        classifier.classify(LEFT)
    assert seen == ["Bearer 1", "Bearer 2"]  # the first was spent on the question about the model


@pytest.mark.parametrize(
    "headers",
    [
        {"a b": "c"},
        {"a": "b\nc"},
        {"": "c"},
        {"a": "\u00e9"},
        {"a": 1},
        {"grpc-timeout": "1S"},
        {"a-bin": "c"},
        {"Content-Length": "1"},
        [("a", "c")],
    ],
    ids=str,
)
def test_headers_that_cannot_travel_are_refused(triton: ScriptedTriton, headers: Any) -> None:
    with VideoClassifier(triton.url, headers=headers) as classifier, pytest.raises(InvalidRequestError, match="header"):
        classifier.classify(LEFT)


def test_a_refused_caller_is_told_to_look_at_the_headers(triton: ScriptedTriton) -> None:
    triton.infer = lambda _, context: fail(context, grpc.StatusCode.UNAUTHENTICATED, "who are you?")
    with VideoClassifier(triton.url) as classifier, pytest.raises(InvalidRequestError, match="headers") as caught:
        classifier.classify(LEFT)
    assert caught.value.code == "bad_parameter"


def test_an_answer_by_another_contract_is_refused_and_the_model_asked_anew(triton: ScriptedTriton) -> None:
    other = ensemble(any_length=True)
    digest = other.parameters["contract_digest"].string_value
    with VideoClassifier(triton.url, model="demo") as classifier:
        before = classifier.describe()
        triton.models = [other]
        triton.infer = lambda *_: response([3.0, 1.0, 0.0, -1.0], report=REPORT | {"contract_digest": digest})
        with pytest.raises(ContractError, match=f"{digest}.*{before.contract.digest}"):
            classifier.classify(LEFT)
        assert classifier.describe().contract.digest == digest
        assert classifier.classify(LEFT).report.contract_digest == digest


def test_a_server_that_comes_back_with_another_contract_is_noticed(triton: ScriptedTriton) -> None:
    with VideoClassifier(triton.url, expect_digest=contract().digest, retries=Retries(attempts=1)) as classifier:
        classifier.classify(LEFT)
        triton.models = [ensemble(any_length=True)]
        triton.infer = failing(1, *LOST)
        with pytest.raises(UnavailableError):
            classifier.classify(LEFT)
        with pytest.raises(ContractError, match="nothing was sent"):
            classifier.classify(LEFT)
    assert len(triton.requests) == 2


@pytest.mark.parametrize(
    "wish",
    [
        {"top": "5"},
        {"top": 2.5},
        {"deadline_s": "5"},
        {"start_s": "soon"},
        {"protocol": 3},
        {"protocol": "\udc80"},
        {"model": b"demo"},
        {"model": "a\nb"},
    ],
    ids=str,
)
def test_a_wish_of_another_type_is_refused(triton: ScriptedTriton, wish: Any) -> None:
    (name,) = wish
    with VideoClassifier(triton.url) as classifier, pytest.raises(InvalidRequestError, match=f"{name} must be"):
        classifier.classify(LEFT, **wish)
    assert triton.requests == []


def test_numbers_of_numpy_are_numbers(triton: ScriptedTriton) -> None:
    with VideoClassifier(triton.url) as classifier:
        wishes: Any = {"top": np.int64(2), "start_s": np.float32(0.5), "deadline_s": np.float64(60)}
        found = classifier.classify(LEFT, **wishes)
    assert len(found.labels) == 2


@pytest.mark.parametrize("url", [None, 8001, b"127.0.0.1:8001"])
def test_a_url_is_text(url: Any) -> None:
    with pytest.raises(InvalidRequestError, match="HOST:PORT"):
        VideoClassifier(url)


def test_a_child_process_needs_a_client_of_its_own(triton: ScriptedTriton) -> None:
    """It would write into the connections of its parent."""
    with VideoClassifier(triton.url, retries=Retries(attempts=1)) as classifier:
        classifier.classify(LEFT)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                classifier.classify(LEFT)
                os.write(writing, b"an answer")
            except TubeletError as exc:
                os.write(writing, str(exc).encode())
                classifier.close()
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as said:
            assert b"bad_parameter: this client was used in another event loop or process" in said.read()
        os.waitpid(child, 0)
        assert classifier.classify(LEFT).labels[0].name == "left"


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
@pytest.mark.parametrize("files", [{"ca_file": __file__}, {"cert_file": __file__, "key_file": __file__}])
def test_files_that_are_no_certificates_are_refused(scheme: str, files: dict[str, str]) -> None:
    url = f"{scheme}://127.0.0.1:1"
    with (
        VideoClassifier(url, tls=Tls(**files)) as classifier,
        pytest.raises(InvalidRequestError, match="cannot use these certificates"),
    ):
        classifier.models()


def test_certificates_for_an_address_without_tls_are_refused() -> None:
    """Else a token would go out in the clear."""
    with pytest.raises(InvalidRequestError, match="grpcs://"):
        VideoClassifier("127.0.0.1:8001", tls=Tls())


def test_a_closed_client_says_so(triton: ScriptedTriton) -> None:
    used, unused = VideoClassifier(triton.url), VideoClassifier(triton.url)
    used.classify(LEFT)
    for classifier in (used, unused):
        classifier.close()
        classifier.close()
        with pytest.raises(UnavailableError, match="was closed"):
            classifier.models()
        with pytest.raises(UnavailableError, match="was closed"):
            classifier.classify(LEFT)
