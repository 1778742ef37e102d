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

from tubelet.clients.address import Address, parse_url
from tubelet.clients.wire import is_unknown_model, request_parameters, translated_errors
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
    (Code.UNAVAILABLE, "in ensemble 'demo', Request timeout expired", OverloadedError, "overloaded"),
    (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlineError, "deadline_exceeded"),
    (Code.INVALID_ARGUMENT, "unexpected inference input 'X' for model 'demo'", InvalidRequestError, "bad_input"),
    (Code.INTERNAL, "Stub process 'demo_sample_0_0' is not healthy.", UnavailableError, "backend_lost"),
    (Code.INTERNAL, "Failed to process the request(s) for model instance 'x'", UnavailableError, "backend_lost"),
    (Code.UNAVAILABLE, "Request for unknown model: 'demo' has no available versions", UnavailableError, "backend_lost"),
    (Code.UNAVAILABLE, "SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED", InvalidRequestError, "bad_parameter"),
    (Code.UNAVAILABLE, "Stream removed (recvmsg:Connection reset by peer (104))", UnavailableError, "backend_lost"),
    (Code.NOT_FOUND, "Request for unknown model: 'demo' is not found", UnavailableError, "backend_lost"),
    (Code.UNKNOWN, "something", UnavailableError, "backend_lost"),
    (Code.RESOURCE_EXHAUSTED, "Received message larger than max", LimitError, "too_large"),
    (Code.UNAUTHENTICATED, "who are you?", InvalidRequestError, "bad_parameter"),
    (Code.PERMISSION_DENIED, "not you", InvalidRequestError, "bad_parameter"),
    (Code.UNIMPLEMENTED, "no such method", UnavailableError, "backend_lost"),
]


@pytest.fixture
def triton() -> Iterator[ScriptedTriton]:
    with running(ScriptedTriton()) as scripted:
        yield scripted


def ask(url: str, *, client_timeout: float | None = None) -> None:
    tensor = InferInput("VIDEO", [1], "BYTES")
    with InferenceServerClient(url, channel_args=[("grpc.enable_http_proxy", 0)]) as client, translated_errors():
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


@pytest.mark.parametrize(
    ("url", "protocol", "authority", "tls"),
    [
        ("127.0.0.1:8001", "grpc", "127.0.0.1:8001", False),
        ("[::1]:8001", "grpc", "[::1]:8001", False),
        ("grpc://triton.example:1", "grpc", "triton.example:1", False),
        ("GRPC://localhost:8001/", "grpc", "localhost:8001", False),
        ("grpcs://triton.example", "grpc", "triton.example:443", True),
        ("http://localhost:8000", "http", "localhost:8000", False),
        ("http://localhost", "http", "localhost:80", False),
        ("https://triton.example/videos/", "http", "triton.example:443", True),
    ],
)
def test_a_url_names_the_protocol(url: str, protocol: str, authority: str, tls: bool) -> None:
    address = parse_url(url)
    assert (address.protocol, address.authority, address.tls) == (protocol, authority, tls)


def test_http_may_lie_below_a_path() -> None:
    assert parse_url("https://triton.example/videos/").base_url == "https://triton.example:443/videos"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        ":8001",
        "localhost:",
        "localhost:http",
        "localhost:0",
        "localhost:65536",
        "grpc://localhost",
        "grpc://localhost:8001/path",
        "ftp://localhost:21",
        "http://",
        "http://user:password@localhost:8000",
        "http://localhost:8000/?query",
        "a b:8001",
    ],
)
def test_another_form_of_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="HOST:PORT"):
        parse_url(url)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("[::1]", True), ("localhost", True), ("10.0.0.1", False), ("a", False)],
)
def test_only_loopback_is_this_machine(host: str, is_loopback: bool) -> None:
    assert Address(protocol="grpc", host=host, port=8001, tls=False).is_loopback is is_loopback
