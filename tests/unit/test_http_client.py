"""The clients over HTTP, against a real HTTP server that is told what to answer."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import scripted_triton
from scripted_http import Reply, Scripted, good_answer, running, said

from tubelet.clients import AsyncVideoClassifier, Retries, Timeouts, VideoClassifier
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

ONCE = Retries(attempts=1)


@pytest.fixture
def triton() -> Iterator[Scripted]:
    with running(Scripted()) as scripted:
        yield scripted


def classify(url: str, kind: type, **options: Any) -> Any:
    if kind is VideoClassifier:
        with VideoClassifier(url, **options) as classifier:
            return classifier.classify(b"video", protocol="4x3", top=2)

    async def run() -> Any:
        async with AsyncVideoClassifier(url, **options) as classifier:
            return await classifier.classify(b"video", protocol="4x3", top=2)

    return asyncio.run(run())


@pytest.mark.parametrize("kind", [VideoClassifier, AsyncVideoClassifier])
def test_a_request_goes_out_in_the_binary_form(triton: Scripted, kind: type) -> None:
    found = classify(triton.url, kind, headers={"Authorization": "Bearer open-sesame"})
    assert [label.name for label in found.labels] == ["left", "right"]
    path, headers, body = triton.requests[-1]
    assert path == "/v2/models/demo/infer"
    size = int(headers["inference-header-content-length"])
    head = json.loads(body[:size])
    assert body[size:] == (5).to_bytes(4, "little") + b"video"
    assert head["parameters"]["protocol"] == "4x3"
    asked = {output["name"]: output["parameters"] for output in head["outputs"]}
    assert asked["PROBABILITIES"] == {"classification": 2, "binary_data": True}
    assert headers["content-type"] == "application/octet-stream"
    assert headers["accept-encoding"] == "identity"
    assert {sent["authorization"] for _, sent, _ in triton.requests} == {"Bearer open-sesame"}


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (said(400, "in ensemble 'demo', too_long: max_duration_s is 5, found 9"), LimitError, "too_long"),
        (said(400, "in ensemble 'demo', not_a_video: nothing"), InvalidVideoError, "not_a_video"),
        (said(400, "unexpected inference input 'X'"), InvalidRequestError, "bad_input"),
        (said(401, "bad_parameter: this server wants to know who asks"), InvalidRequestError, "bad_parameter"),
        ((403, {}, b"<html>Forbidden</html>"), InvalidRequestError, "bad_parameter"),
        ((404, {}, b""), UnavailableError, "backend_lost"),
        ((413, {}, b"<html>Too large</html>"), LimitError, "too_large"),
        ((429, {}, b""), OverloadedError, "overloaded"),
        (said(500, "Stub process 'demo_sample_0_0' is not healthy."), UnavailableError, "backend_lost"),
        ((502, {}, b"<html>Bad gateway</html>"), UnavailableError, "backend_lost"),
        (said(503, "[request id: 1] Exceeds maximum queue size"), OverloadedError, "overloaded"),
        (said(503, "Request timeout expired"), OverloadedError, "overloaded"),
        ((503, {}, b"[]"), UnavailableError, "backend_lost"),
        ((504, {}, b""), DeadlineError, "deadline_exceeded"),
        ((200, {}, b"<html>a portal of somebody's</html>"), ContractError, "contract_mismatch"),
        ((200, {"Inference-Header-Content-Length": "7"}, b"{}"), ContractError, "contract_mismatch"),
        ((200, {"Inference-Header-Content-Length": "x"}, b"{}"), ContractError, "contract_mismatch"),
    ],
)
def test_a_status_and_its_words_become_one_error(
    triton: Scripted, reply: Reply, kind: type[TubeletError], code: str
) -> None:
    triton.infer = lambda: reply
    with pytest.raises(TubeletError) as caught:
        classify(triton.url, VideoClassifier, retries=ONCE)
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert "html" not in str(caught.value)


@pytest.mark.parametrize("kind", [VideoClassifier, AsyncVideoClassifier])
def test_what_may_pass_is_tried_again(triton: Scripted, kind: type) -> None:
    replies = iter([said(503, "Exceeds maximum queue size"), (502, {}, b""), good_answer()])
    triton.infer = lambda: next(replies)
    assert classify(triton.url, kind, retries=Retries(first_pause_s=0.001)).labels[0].name == "left"


def test_models_and_those_that_there_are_not(triton: Scripted) -> None:
    triton.models = ["other", "demo"]
    with VideoClassifier(triton.url) as classifier:
        assert classifier.models() == ("demo", "other")
        assert classifier.describe("demo").contract.name == "demo"
        with pytest.raises(InvalidRequestError, match="no model 'demmo'; the server has demo, other"):
            classifier.describe("demmo")


def test_a_server_that_keeps_its_models_to_itself_wants_a_name(triton: Scripted) -> None:
    triton.answer = lambda *_: said(403, "bad_parameter: this address is not public")  # type: ignore[method-assign]
    with VideoClassifier(triton.url) as classifier, pytest.raises(InvalidRequestError, match="name one with model="):
        classifier.describe()


@pytest.mark.parametrize("kind", [VideoClassifier, AsyncVideoClassifier])
def test_a_port_where_nobody_listens_is_an_unavailable_server(kind: type) -> None:
    with running(Scripted()) as gone:
        pass
    with pytest.raises(UnavailableError, match="tubelet serve"):
        classify(gone.url, kind, retries=ONCE)


class Waiting:
    """An answer that does not come before it is let go."""

    def __init__(self) -> None:
        self.arrived, self.may_go = threading.Event(), threading.Event()

    def __call__(self) -> Reply:
        self.arrived.set()
        self.may_go.wait()
        return good_answer()


@pytest.fixture
def waiting(triton: Scripted) -> Iterator[Waiting]:
    triton.infer = waiting = Waiting()
    yield waiting
    waiting.may_go.set()


def test_an_answer_that_never_comes_is_a_deadline_error(triton: Scripted, waiting: Waiting) -> None:
    with pytest.raises(DeadlineError):
        classify(triton.url, VideoClassifier, timeouts=Timeouts(request_s=0.1))


def test_closing_ends_the_calls_of_other_threads(triton: Scripted, waiting: Waiting) -> None:
    classifier = VideoClassifier(triton.url)
    with ThreadPoolExecutor(1) as executor:
        call = executor.submit(classifier.classify, b"video")
        assert waiting.arrived.wait(60)
        classifier.close()
        with pytest.raises(UnavailableError, match="was closed"):
            call.result()


def test_closing_ends_the_calls_of_other_tasks(triton: Scripted, waiting: Waiting) -> None:
    async def work() -> None:
        classifier = AsyncVideoClassifier(triton.url)
        call = asyncio.create_task(classifier.classify(b"video"))
        await asyncio.to_thread(waiting.arrived.wait, 60)
        await classifier.close()
        with pytest.raises(UnavailableError, match="was closed"):
            await call

    asyncio.run(work())


def test_a_task_can_be_cancelled(triton: Scripted, waiting: Waiting) -> None:
    async def work() -> None:
        async with AsyncVideoClassifier(triton.url) as classifier:
            call = asyncio.create_task(classifier.classify(b"video"))
            await asyncio.to_thread(waiting.arrived.wait, 60)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            triton.infer = good_answer
            assert (await classifier.classify(b"video")).labels[0].name == "left"

    asyncio.run(work())


def test_a_proxy_of_the_environment_is_passed_over(triton: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert classify(triton.url, VideoClassifier).labels[0].name == "left"


@pytest.mark.parametrize("kind", [VideoClassifier, AsyncVideoClassifier])
def test_a_redirection_is_not_followed(triton: Scripted, kind: type) -> None:
    """The headers may hold a token, which is for this server."""
    triton.infer = lambda: (307, {"Location": "http://127.0.0.1:1/"}, b"")
    with pytest.raises(InvalidRequestError, match="another address"):
        classify(triton.url, kind)


@pytest.mark.parametrize("kind", [VideoClassifier, AsyncVideoClassifier])
def test_the_wrong_protocol_is_said_so(triton: Scripted, kind: type) -> None:
    authority = triton.url.removeprefix("http://")
    for url in (authority, f"https://{authority}"):
        with pytest.raises(UnavailableError, match="another protocol is spoken there"):
            classify(url, kind, retries=ONCE)
    with (
        scripted_triton.running(scripted_triton.ScriptedTriton()) as other,
        pytest.raises(UnavailableError, match="another protocol is spoken there"),
    ):
        classify(f"http://{other.url}", kind, retries=ONCE)


@pytest.mark.parametrize("kind", [VideoClassifier, AsyncVideoClassifier])
def test_an_answer_that_breaks_off_is_a_lost_server(triton: Scripted, kind: type) -> None:
    status, headers, body = good_answer()
    triton.infer = lambda: (status, headers | {"Connection": "close", "X-Cut": "1"}, body)
    with pytest.raises(UnavailableError, match="the connection to the server was lost"):
        classify(triton.url, kind, retries=ONCE)


def test_a_name_that_no_url_holds_is_refused(triton: Scripted) -> None:
    with VideoClassifier(triton.url) as classifier, pytest.raises(InvalidRequestError, match="URL too long"):
        classifier.describe("a" * 100_000)
