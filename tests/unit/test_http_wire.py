"""What a load test sends over HTTP, and what it makes of the answers of a real server that is told what to say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import scripted_http
from scripted_http import Scripted, good_answer, running, said

from tubelet.clients import AsyncVideoClassifier
from tubelet.clients.address import parse_url
from tubelet.clients.calls import Call
from tubelet.loadtest.wires import Ask, open_wire
from tubelet.spec.errors import (
    ContractError,
    DeadlineError,
    InvalidVideoError,
    OverloadedError,
    TubeletError,
    UnavailableError,
)

VIDEOS = {"v": (b"video", b"another", b"")}
CALL = Call(
    model="demo",
    tensors=(),
    outputs={"LOGITS": 0, "PROBABILITIES": 2},
    parameters={"protocol": "4x3"},
    deadline_s=20.0,
    priority=2,
)


@pytest.fixture
def triton() -> Iterator[Scripted]:
    with running(Scripted()) as scripted:
        yield scripted


def asking(url: str, work: Callable[[Ask], Awaitable[Any]], *, call: Call = CALL, **options: Any) -> Any:
    async def run() -> Any:
        wire = open_wire(parse_url(url), VIDEOS, most_in_flight=8, headers=options.get("headers"), tls=None)
        try:
            return await work(wire.prepare(call, "v"))
        finally:
            await wire.close()

    return asyncio.run(run())


def test_a_request_is_the_one_that_a_client_would_send(triton: Scripted) -> None:
    async def work(ask: Ask) -> None:
        answer = (await ask(4)).answer
        logits = answer.as_numpy("LOGITS")
        assert logits is not None
        assert logits.tolist() == [3.0, 1.0, 0.0, -1.0]

    asking(triton.url, work, headers={"X-Token": "t"})

    async def client() -> None:
        async with AsyncVideoClassifier(triton.url, headers={"X-Token": "t"}) as classifier:
            await classifier.classify(VIDEOS["v"][1], model="demo", protocol="4x3", deadline_s=20.0, priority="archive")

    asyncio.run(client())
    infers = [(path, headers, body) for path, headers, body in triton.requests if path.endswith("/infer")]
    (path, ours, body), (their_path, theirs, their_body) = infers
    assert path == their_path
    for name in ("x-token", "content-type", "host"):
        assert ours[name] == theirs[name]
    size = int(ours["inference-header-content-length"])
    assert body[size:] == their_body[int(theirs["inference-header-content-length"]) :] == b"\x07\0\0\0another"
    assert ours["content-length"] == str(len(body))


def test_connections_are_kept_unless_the_server_ends_them(triton: Scripted) -> None:
    peers: list[Any] = []

    async def work(ask: Ask) -> None:
        peers.extend([await ask(0) for _ in range(3)])
        triton.infer = lambda: (200, {**good_answer()[1], "Connection": "close"}, good_answer()[2])
        peers.append(await ask(0))
        triton.infer = good_answer
        peers.append(await ask(0))
        await asyncio.gather(*(ask(number) for number in range(3)))

    asking(triton.url, work)
    assert len(peers) == 5
    assert len(triton.requests) == 8
    assert triton.num_connections == 4, "one, one after it was closed, and two more for three at a time"


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (said(503, "[request id: 1] Exceeds maximum queue size"), OverloadedError, "overloaded"),
        (said(400, "in ensemble 'demo', not_a_video: it is text"), InvalidVideoError, "not_a_video"),
        ((502, {}, b"<html>"), UnavailableError, "backend_lost"),
        ((200, {}, b"<html>"), ContractError, "contract_mismatch"),
        ((200, {"X-Cut": "yes", "Connection": "close"}, b"x" * 100), UnavailableError, "backend_lost"),
    ],
)
def test_an_error_is_the_clients_and_harms_no_other_request(
    triton: Scripted, reply: scripted_http.Reply, kind: type[TubeletError], code: str
) -> None:
    async def work(ask: Ask) -> TubeletError:
        triton.infer = lambda: reply
        with pytest.raises(TubeletError) as caught:
            await ask(0)
        triton.infer = good_answer
        await ask(0)
        return caught.value

    error = asking(triton.url, work)
    assert (type(error), error.code) == (kind, code)


def test_who_gives_up_leaves_no_answer_behind(triton: Scripted) -> None:
    goes_on = asyncio.Event

    async def work(ask: Ask) -> None:
        loop, gate = asyncio.get_running_loop(), goes_on()

        def wait() -> scripted_http.Reply:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(timeout=60)
            return 200, {}, b"too late"

        triton.infer = wait
        waiting = asyncio.ensure_future(ask(0))
        while not triton.requests:
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        triton.infer = good_answer
        gate.set()
        assert (await ask(0)).answer.as_numpy("LOGITS") is not None

    asking(triton.url, work)


def test_nobody_waits_longer_than_the_deadline(triton: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tubelet.loadtest.http_wire.GRACE_S", 0.0)

    async def work(ask: Ask) -> None:
        loop, gate = asyncio.get_running_loop(), asyncio.Event()

        def wait() -> scripted_http.Reply:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(timeout=60)
            return good_answer()

        triton.infer = wait
        with pytest.raises(DeadlineError):
            await ask(0)
        gate.set()

    call = Call(model="demo", tensors=(), outputs={}, parameters={}, deadline_s=0.05)
    asking(triton.url, work, call=call)


def test_where_nobody_listens_is_said(triton: Scripted) -> None:
    async def work(ask: Ask) -> None:
        with pytest.raises(UnavailableError, match="no server answers"):
            await ask(0)

    asking("http://127.0.0.1:1", work)


def test_a_refusal_ends_no_connection(triton: Scripted) -> None:
    async def work(ask: Ask) -> None:
        triton.infer = lambda: said(503, "[request id: 1] Exceeds maximum queue size")
        for _ in range(3):
            with pytest.raises(OverloadedError):
                await ask(0)
        triton.infer = good_answer
        await ask(0)

    asking(triton.url, work)
    assert len(triton.requests) == 4
    assert triton.num_connections == 1
