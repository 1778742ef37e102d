"""`AsyncVideoClassifier`: where it differs from the twin that is made of it: many calls in a thread, cancelling."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from scripted_triton import ScriptedTriton, contract, response, running
from tritonclient.grpc import service_pb2

from tubelet.clients import AsyncVideoClassifier, Retries
from tubelet.spec.errors import InvalidRequestError, InvalidVideoError, OverloadedError, UnavailableError

LEFT = json.dumps([3.0, 1.0, 0.0, -1.0]).encode()
DOWN = json.dumps([0.0, 1.0, 2.0, 4.0]).encode()


@pytest.fixture
def triton() -> Iterator[ScriptedTriton]:
    with running(ScriptedTriton()) as scripted:
        yield scripted


class Waiting:
    """An answer that does not come; says when a call has arrived, and when its caller is gone."""

    def __init__(self) -> None:
        self.arrived, self.gone = threading.Event(), threading.Event()

    def __call__(self, _: object, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        assert context.add_callback(self.gone.set)
        self.arrived.set()
        self.gone.wait()
        return service_pb2.ModelInferResponse()


def with_client(url: str, work: Callable[[AsyncVideoClassifier], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncVideoClassifier(url, **options) as classifier:
            return await work(classifier)

    return asyncio.run(run())


def test_coroutines_share_a_client_and_one_wrong_video_fails_alone(triton: ScriptedTriton, tmp_path: Path) -> None:
    together, answer = threading.Barrier(8), triton.infer

    def all_at_once(
        request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        together.wait(60)
        return answer(request, context)

    async def work(classifier: AsyncVideoClassifier) -> Any:
        calls = [classifier.classify(video) for video in videos]
        return await asyncio.gather(*calls, return_exceptions=True)

    triton.infer = all_at_once
    (tmp_path / "down").write_bytes(DOWN)
    wrong = json.dumps("in ensemble 'demo', truncated: no frame").encode()
    videos: list[bytes | Path] = [LEFT, tmp_path / "down", LEFT, wrong, DOWN, LEFT, DOWN, LEFT]
    found = with_client(triton.url, work)
    assert isinstance(found.pop(3), InvalidVideoError)
    assert [one.labels[0].name for one in found] == ["left", "down", "left", "down", "left", "down", "left"]


def test_what_is_asked_first_by_many_is_asked_once(triton: ScriptedTriton) -> None:
    asked: list[str] = []
    config = triton.ModelConfig

    def counted(request: service_pb2.ModelConfigRequest, context: grpc.ServicerContext) -> Any:
        asked.append(request.name)
        return config(request, context)

    async def work(classifier: AsyncVideoClassifier) -> Any:
        return await asyncio.gather(*(classifier.describe("demo") for _ in range(16)))

    triton.ModelConfig = counted  # type: ignore[method-assign]
    with running(triton):
        assert {one.contract.digest for one in with_client(triton.url, work)} == {contract().digest}
    assert asked == ["demo"]


def test_a_cancelled_task_cancels_the_call(triton: ScriptedTriton) -> None:
    waiting = triton.infer = Waiting()

    async def work(classifier: AsyncVideoClassifier) -> None:
        call = asyncio.create_task(classifier.classify(LEFT))
        await asyncio.to_thread(waiting.arrived.wait, 60)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(waiting.gone.wait, 60)
        triton.infer = lambda *_: response([3.0, 1.0, 0.0, -1.0])
        assert (await classifier.classify(LEFT)).labels[0].name == "left"

    with_client(triton.url, work)


def test_a_timeout_of_the_callers_cancels_it_too(triton: ScriptedTriton) -> None:
    waiting = triton.infer = Waiting()

    async def work(classifier: AsyncVideoClassifier) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await classifier.classify(LEFT)
        assert await asyncio.to_thread(waiting.gone.wait, 60)

    with_client(triton.url, work)


def test_closing_ends_the_calls_that_are_under_way(triton: ScriptedTriton) -> None:
    """With an error of ours, since nobody has cancelled the task."""
    waiting = triton.infer = Waiting()

    async def work(classifier: AsyncVideoClassifier) -> None:
        call = asyncio.create_task(classifier.classify(LEFT))
        await asyncio.to_thread(waiting.arrived.wait, 60)
        await classifier.close()
        with pytest.raises(UnavailableError, match="was closed"):
            await call
        with pytest.raises(UnavailableError, match="was closed"):
            await classifier.classify(LEFT)

    with_client(triton.url, work)


def test_a_pause_before_another_attempt_can_be_cancelled(triton: ScriptedTriton) -> None:
    refused = threading.Event()

    def refuse(_: object, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        refused.set()
        context.abort(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
        raise AssertionError

    async def work(classifier: AsyncVideoClassifier) -> None:
        call = asyncio.create_task(classifier.classify(LEFT))
        await asyncio.to_thread(refused.wait, 60)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    triton.infer = refuse
    with_client(triton.url, work, retries=Retries(attempts=100, first_pause_s=100.0, most_pause_s=100.0))


def test_attempts_are_made_again(triton: ScriptedTriton) -> None:
    def refuse(_: object, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        context.abort(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
        raise AssertionError

    async def work(classifier: AsyncVideoClassifier) -> None:
        with pytest.raises(OverloadedError):
            await classifier.classify(LEFT)

    triton.infer = refuse
    with_client(triton.url, work, retries=Retries(attempts=3, first_pause_s=0.001))
    assert len(triton.requests) == 3


def test_a_client_may_be_made_where_no_loop_runs(triton: ScriptedTriton) -> None:
    classifier = AsyncVideoClassifier(triton.url, model="demo")

    async def work() -> str:
        async with classifier:
            return (await classifier.classify(LEFT)).labels[0].name

    assert asyncio.run(work()) == "left"


def test_a_second_event_loop_needs_a_client_of_its_own(triton: ScriptedTriton) -> None:
    classifier = AsyncVideoClassifier(triton.url)

    async def work() -> str:
        return (await classifier.classify(LEFT)).labels[0].name

    assert asyncio.run(work()) == "left"
    with pytest.raises(InvalidRequestError, match="another event loop"):
        asyncio.run(work())
    asyncio.run(classifier.close())
    with pytest.raises(UnavailableError, match="was closed"):
        asyncio.run(work())
