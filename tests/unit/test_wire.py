"""Errors and parameters at the border to tritonclient, over a real gRPC connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from functools import partial

import grpc  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_triton import ScriptedTriton, contract, fail, running
from tritonclient.grpc import InferenceServerClient, InferInput, service_pb2
from tritonclient.utils import InferenceServerException

from tubelet.clients.wire import CHANNEL_OPTIONS, check_url, is_unknown_model, request_parameters, translated_errors
from tubelet.spec.errors import (
    DeadlineError,
    InvalidRequestError,
    InvalidVideoError,
    LimitError,
    OverloadedError,
    TubeletError,
    UnavailableError,
)
from tubelet.spec.limits import Limits
from tubelet.spec.request import Request

Code = grpc.StatusCode

CASES = [
    (Code.INVALID_ARGUMENT, "in ensemble 'demo', too_long: max_duration_s is 5, found 9", LimitError, "too_long"),
    (Code.INVALID_ARGUMENT, "in ensemble 'demo', not_a_video: nothing", InvalidVideoError, "not_a_video"),
    (Code.UNAVAILABLE, "in ensemble 'demo', overloaded: wait", OverloadedError, "overloaded"),
    (Code.INTERNAL, "in ensemble 'demo', deadline_exceeded: over", DeadlineError, "deadline_exceeded"),
    (Code.UNAVAILABLE, "in ensemble 'demo', [request id: 1] Exceeds maximum queue size", OverloadedError, "overloaded"),
    (Code.UNAVAILABLE, "in ensemble 'demo', Request timeout expired", DeadlineError, "deadline_exceeded"),
    (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlineError, "deadline_exceeded"),
    (Code.INVALID_ARGUMENT, "unexpected inference input 'X' for model 'demo'", InvalidRequestError, "bad_input"),
    (Code.INTERNAL, "Stub process 'demo_sample_0_0' is not healthy.", UnavailableError, "backend_lost"),
    (Code.INTERNAL, "Failed to process the request(s) for model instance 'x'", UnavailableError, "backend_lost"),
    (Code.UNAVAILABLE, "Request for unknown model: 'demo' has no available versions", UnavailableError, "backend_lost"),
    (Code.UNAVAILABLE, "Stream removed (recvmsg:Connection reset by peer (104))", UnavailableError, "backend_lost"),
    (Code.NOT_FOUND, "Request for unknown model: 'demo' is not found", UnavailableError, "backend_lost"),
    (Code.UNKNOWN, "something", UnavailableError, "backend_lost"),
    (Code.RESOURCE_EXHAUSTED, "Received message larger than max", LimitError, "too_large"),
    (Code.UNIMPLEMENTED, "no such method", UnavailableError, "backend_lost"),
]


@pytest.fixture
def triton() -> Iterator[ScriptedTriton]:
    with running(ScriptedTriton()) as scripted:
        yield scripted


def ask(url: str, *, client_timeout: float | None = None) -> None:
    tensor = InferInput("VIDEO", [1], "BYTES")
    with InferenceServerClient(url, channel_args=list(CHANNEL_OPTIONS)) as client, translated_errors():
        client.infer("demo", [tensor], client_timeout=client_timeout)


@pytest.mark.parametrize(("status", "text", "kind", "code"), CASES)
def test_a_status_and_its_words_become_one_error(
    triton: ScriptedTriton, status: grpc.StatusCode, text: str, kind: type[TubeletError], code: str
) -> None:
    triton.infer = lambda _, context: fail(context, status, text)
    with pytest.raises(TubeletError) as caught:
        ask(triton.url)
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert isinstance(caught.value.__cause__, InferenceServerException)


def test_the_words_of_a_crashed_backend_stay_at_the_server(triton: ScriptedTriton) -> None:
    traceback = "Failed to process the request(s), message: Traceback:\n  File /srv/secret.py(12): run\n"
    triton.infer = lambda _, context: fail(context, Code.INTERNAL, traceback)
    with pytest.raises(UnavailableError) as caught:
        ask(triton.url)
    assert "secret" not in str(caught.value)


def test_a_message_is_one_line(triton: ScriptedTriton) -> None:
    triton.infer = lambda _, context: fail(context, Code.INVALID_ARGUMENT, "expected\n  this")
    with pytest.raises(InvalidRequestError, match="expected this") as caught:
        ask(triton.url)
    assert "\n" not in str(caught.value)


def test_an_answer_that_never_comes_is_a_deadline_error(triton: ScriptedTriton) -> None:
    def never(_: object, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        gone = threading.Event()
        assert context.add_callback(gone.set)
        gone.wait()
        return service_pb2.ModelInferResponse()

    triton.infer = never
    with pytest.raises(DeadlineError):
        ask(triton.url, client_timeout=0.1)


def test_a_port_where_nobody_listens_is_an_unavailable_server() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(UnavailableError, match="tubelet serve"):
        ask(f"127.0.0.1:{port}")


def test_only_a_model_that_was_never_there_is_unknown(triton: ScriptedTriton) -> None:
    found = []
    for text in ("unknown model: 'demo' is not found", "unknown model: 'demo' has no available versions"):
        triton.infer = partial(_not_found, text)
        with pytest.raises(UnavailableError) as caught:
            ask(triton.url)
        found.append(is_unknown_model(caught.value))
    assert found == [True, False]


def _not_found(text: str, _: object, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
    fail(context, Code.NOT_FOUND, text)


def test_what_tritonclient_itself_refuses_is_a_bad_input() -> None:
    with pytest.raises(InvalidRequestError, match="bad_input"), translated_errors():
        raise InferenceServerException("got unexpected datatype")


numbers = st.floats(min_value=0, max_value=1e6, allow_nan=False)


@given(start_s=numbers, length_s=st.floats(0.001, 1e5), deadline_s=st.floats(0.001, 300))
def test_numbers_arrive_as_they_were_sent(start_s: float, length_s: float, deadline_s: float) -> None:
    end_s = start_s + length_s
    parameters = request_parameters(protocol="4x3", start_s=start_s, end_s=end_s, deadline_s=deadline_s)
    request = Request.from_parameters(parameters, contract(), Limits())
    assert (request.protocol.name, request.start_s, request.end_s) == ("4x3", start_s, end_s)
    assert request.deadline_s == pytest.approx(deadline_s, rel=1e-12)


def test_what_is_not_wished_is_not_sent() -> None:
    assert request_parameters(protocol=None, start_s=None, end_s=None, deadline_s=None) == {}


@pytest.mark.parametrize(
    "wish", [{"start_s": float("nan")}, {"end_s": float("inf")}, {"deadline_s": 0.0}, {"deadline_s": -1.0}]
)
def test_numbers_that_mean_nothing_are_refused(wish: dict[str, float]) -> None:
    with pytest.raises(InvalidRequestError, match="bad_parameter"):
        request_parameters(**({"protocol": None, "start_s": None, "end_s": None, "deadline_s": None} | wish))  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "localhost:1", "[::1]:8001", "triton.example:8001"])
def test_an_address_is_a_host_and_a_port(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize("url", ["", "localhost", "http://localhost:8000", ":8001", "localhost:", "localhost:http"])
def test_another_form_of_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="HOST:PORT"):
        check_url(url)
