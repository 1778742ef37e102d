"""What a load test sends over gRPC, and what it makes of the answers; the server is a scripted one."""

from __future__ import annotations

import asyncio
import math
import resource
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from scripted_triton import REPORT, ScriptedTriton, contract, ensemble, fail, response, running
from tritonclient.grpc import service_pb2

from tubelet.clients import AsyncVideoClassifier
from tubelet.clients.address import parse_url
from tubelet.clients.results import read_report
from tubelet.loadtest import sending
from tubelet.loadtest.scenario import Closed, RequestKind, Scenario, Steady, Stream, Synthetic
from tubelet.loadtest.sending import Reply, Sender
from tubelet.loadtest.wires import open_wire
from tubelet.spec.errors import (
    ContractError,
    DeadlineError,
    InvalidRequestError,
    LimitError,
    OverloadedError,
    ScenarioError,
    TubeletError,
    UnavailableError,
)
from tubelet.spec.limits import Limits
from tubelet.spec.priorities import QUEUE_SHARE

VIDEOS = {"v": (b"[3.0, 1.0, 0.0, -1.0]", b"[0.0, 1.0, 2.0, 40.0]", b"")}


@pytest.fixture
def triton() -> Iterator[ScriptedTriton]:
    with running(ScriptedTriton()) as scripted:
        yield scripted


def scenario(url: str, *, protocol: str | None = None, **stream: Any) -> Scenario:
    kind = RequestKind(name="k", model="demo", videos="v", protocol=protocol)
    only = Stream(**{"name": "s", "arrivals": Steady(kind="steady", rate=1.0), "requests": (kind,), **stream})
    return Scenario(name="t", url=url, videos={"v": Synthetic(kind="synthetic")}, streams=(only,), duration_s=1.0)


def with_sender(what: Scenario, work: Callable[[Sender], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    async def run() -> Any:
        async with Sender(what, VIDEOS, **options) as sender:
            await sender.prepare()
            return await work(sender)

    return asyncio.run(run())


def answering(triton: ScriptedTriton, **report: Any) -> None:
    triton.infer = lambda *_: response([1.0, 2.0, 3.0, 4.0], report={**REPORT, **report})


@pytest.mark.parametrize("protocol", [None, "4x3"])
@pytest.mark.parametrize("priority", ["interactive", "archive"])
def test_a_request_is_the_one_that_a_client_would_send(
    triton: ScriptedTriton, protocol: str | None, priority: Any
) -> None:
    what = scenario(triton.url, protocol=protocol, priority=priority, deadline_s=12.5)
    reply = with_sender(what, lambda sender: sender.send("k", 4))
    assert reply._replace(at_s=None) == Reply(
        protocol="1x1", views=1, units=3, server_ms=9.25, num_bytes=len(VIDEOS["v"][1])
    )

    async def ask() -> None:
        async with AsyncVideoClassifier(triton.url) as client:
            await client.classify(VIDEOS["v"][1], protocol=protocol, priority=priority, deadline_s=12.5, top=5)

    asyncio.run(ask())
    ours, theirs = triton.requests
    # A client's deadline has become a little less on the way.
    for request in (ours, theirs):
        assert float(request.parameters.pop("deadline_ms").string_param) == pytest.approx(12500, rel=0.1)
        assert request.parameters.pop("timeout").int64_param == pytest.approx(QUEUE_SHARE * 12.5e6, rel=0.1)
    assert ours == theirs


def test_videos_are_taken_in_turn_and_headers_are_made_anew(triton: ScriptedTriton) -> None:
    seen: list[Any] = []

    def look(request: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> Any:
        seen.append((request.raw_input_contents[0][4:], dict(context.invocation_metadata())["authorization"]))
        return response([0.0] * 4)

    triton.infer = look
    tokens = iter(range(100))

    async def work(sender: Sender) -> None:
        for index in range(4):
            await sender.send("k", index)

    with_sender(scenario(triton.url), work, headers=lambda: {"Authorization": f"t{next(tokens)}"})
    assert [video for video, _ in seen] == [*VIDEOS["v"], VIDEOS["v"][0]]
    assert len({token for _, token in seen}) == 4


def test_an_answer_has_come_before_it_is_read(triton: ScriptedTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    read_s: list[float] = []

    def read(*arguments: Any) -> Any:
        read_s.append(asyncio.get_running_loop().time())
        return read_report(*arguments)

    monkeypatch.setattr(sending, "read_report", read)

    async def work(sender: Sender) -> tuple[float, float | None]:
        began_s = asyncio.get_running_loop().time()
        return began_s, (await sender.send("k", 0)).at_s

    began_s, at_s = with_sender(scenario(triton.url), work)
    assert began_s < at_s < read_s.pop()


def test_contracts_are_known_and_no_more_time_is_asked_for_than_there_is(triton: ScriptedTriton) -> None:
    triton.models = [ensemble(limits=replace(Limits(), default_deadline_s=5.0))]

    async def work(sender: Sender) -> dict[str, str]:
        await sender.send("k", 0)
        return sender.contracts

    assert with_sender(scenario(triton.url, deadline_s=60.0), work) == {"demo": contract().digest}
    assert triton.requests[0].parameters["timeout"].int64_param == QUEUE_SHARE * 5_000_000


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        ("INVALID_ARGUMENT", "too_long: no", LimitError),
        ("UNAVAILABLE", "Exceeds maximum queue size", OverloadedError),
        ("INTERNAL", "traceback", UnavailableError),
        ("DEADLINE_EXCEEDED", "late", DeadlineError),
        ("UNAUTHENTICATED", "who", InvalidRequestError),
    ],
)
def test_errors_are_the_clients(triton: ScriptedTriton, status: str, text: str, error: type[TubeletError]) -> None:
    triton.infer = lambda _, context: fail(context, getattr(grpc.StatusCode, status), text)
    with pytest.raises(error):
        with_sender(scenario(triton.url), lambda sender: sender.send("k", 0))
    assert len(triton.requests) == 1


@pytest.mark.parametrize(
    "report",
    [
        {"views": -1},
        {"units_encoded": 2**40},
        {"views": "many"},
        {"milliseconds": {}},
        {"contract_digest": "sha256:another"},
        {"protocol": math.nan, "milliseconds": None},
    ],
)
def test_an_answer_whose_report_cannot_be_read_is_an_error(triton: ScriptedTriton, report: dict[str, Any]) -> None:
    answering(triton, **report)
    with pytest.raises(ContractError):
        with_sender(scenario(triton.url), lambda sender: sender.send("k", 0))


def test_an_answer_that_is_cut_is_an_error(triton: ScriptedTriton) -> None:
    whole = response([0.0] * 4)
    for change in ("outputs", "raw_output_contents"):
        cut = service_pb2.ModelInferResponse()
        cut.CopyFrom(whole)
        cut.ClearField(change)
        triton.infer = lambda *_, cut=cut: cut
        with pytest.raises(ContractError):
            with_sender(scenario(triton.url), lambda sender: sender.send("k", 0))
    whole.raw_output_contents[4] = b"\xff\xff\xff\x7fshort"
    triton.infer = lambda *_: whole
    with pytest.raises(ContractError):
        with_sender(scenario(triton.url), lambda sender: sender.send("k", 0))


def test_a_server_that_says_nothing_is_left_after_the_deadline(triton: ScriptedTriton) -> None:
    def waits(_: object, context: grpc.ServicerContext) -> Any:
        while context.is_active():
            time.sleep(0.01)
        return service_pb2.ModelInferResponse()

    triton.infer = waits
    with pytest.raises(DeadlineError):
        with_sender(scenario(triton.url, deadline_s=0.1), lambda sender: sender.send("k", 0))


def test_over_http_there_must_be_files_enough_for_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    address = parse_url("http://127.0.0.1:1")
    for most in (500, 2000):
        open_wire(address, {}, most_in_flight=most, headers=None, tls=None)
    assert raised == [(2128, 4096)]
    with pytest.raises(ScenarioError, match=r"4096 open files.* of 3968 at most"):
        open_wire(address, {}, most_in_flight=4000, headers=None, tls=None)


def test_callers_of_a_closed_loop_need_no_more_than_grpc_has(triton: ScriptedTriton) -> None:
    what = scenario(triton.url, arrivals=Closed(kind="closed", callers=9000))
    assert with_sender(what, lambda sender: sender.send("k", 0)).views == 1
