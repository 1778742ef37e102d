"""Retries, suspects and equal contents, against scripted servers: no real video ends a server at will."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tubelet.archive.events import Away, Back, Event, SetAside
from tubelet.archive.items import Item
from tubelet.archive.rows import Row, Run
from tubelet.archive.scorer import score_items
from tubelet.archive.settings import Settings
from tubelet.archive.verdicts import verdict_on
from tubelet.clients import Classification, Label, ModelDescription, Report
from tubelet.clients.wire import translated_errors, unreachable_error
from tubelet.preprocess.canary import canary_video
from tubelet.spec.errors import (
    ContractError,
    DeadlineError,
    InternalError,
    InvalidRequestError,
    InvalidVideoError,
    OverloadedError,
    TubeletError,
    UnavailableError,
)
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract

RUN = Run(model="small", protocol="1x1", contract_digest="sha256:0", top=1, keeps_logits=False)
LOST = UnavailableError("backend_lost", "lost")
Script = Callable[[bytes], Awaitable[None]]


@dataclass
class Scripted:
    """A server as its client shows it: ``script`` is awaited for each video, and raises what is to be answered."""

    contract: Contract
    script: Script
    limits: Limits = field(default_factory=Limits)
    asked: list[bytes] = field(default_factory=list)
    beside: dict[bytes, int] = field(default_factory=dict)
    """Most requests that were in flight when a video was asked."""
    down: asyncio.Event | None = None
    in_flight: int = 0
    most_in_flight: int = 0
    crashes: int = 0

    async def describe(self) -> ModelDescription:
        return ModelDescription(name="small", contract=self.contract, limits=self.limits)

    async def classify(self, source: bytes, **wishes: object) -> Classification:
        if source == canary_video():
            return answer(source)
        self.asked.append(source)
        crash = self.down = self.down or asyncio.Event()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.beside[source] = self.in_flight - 1
        tasks = [asyncio.ensure_future(task) for task in (self.script(source), crash.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if crash.is_set():
                raise LOST
            await tasks[0]
        finally:
            self.in_flight -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return answer(source)

    def crash(self) -> None:
        """Loses all requests in flight; the next ones find it well again."""
        self.crashes += 1
        if self.down is not None:
            self.down.set()
        self.down = None

    async def close(self) -> None:
        pass


def answer(source: bytes) -> Classification:
    report = Report(
        protocol="1x1",
        warnings=(),
        duration_s=1.0,
        contract_digest="sha256:0",
        frames_decoded=4,
        views=1,
        units_wanted=2,
        units_encoded=2,
        milliseconds={"total": 1.0},
    )
    return Classification(
        model="small",
        labels=(Label(name=source.decode(errors="replace")[:20], index=0, probability=1.0),),
        logits=np.zeros(2, np.float32),
        view_logits=np.zeros((1, 2), np.float32),
        frame_times=None,
        clip_spans=None,
        attention=None,
        product=(),
        features=None,
        positions=None,
        report=report,
        round_trip_ms=1.0,
    )


@pytest.fixture
def score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_contract: Callable[..., Contract]
) -> Callable[..., list[Row]]:
    """Scores texts as if they were videos, each under its number; ``events`` takes what happens besides."""

    def run(
        texts: list[str],
        *servers: Scripted,
        known: dict[str | None, Row] | None = None,
        events: list[Event] | None = None,
        stopping: asyncio.Event | None = None,
        **changes: Any,
    ) -> list[Row]:
        for number, text in enumerate(texts):
            (tmp_path / f"{number:04}").write_text(text)
        by_url = {f"127.0.0.1:{number + 1}": server for number, server in enumerate(servers)}
        monkeypatch.setattr("tubelet.archive.server.open_classifier", lambda settings, url, **_: by_url[url])
        monkeypatch.setattr("tubelet.archive.fleet._FIRST_PAUSE_S", 0.001)
        settings = Settings(urls=tuple(by_url), run=RUN, **changes)
        items = [Item(str(tmp_path / f"{number:04}")) for number in range(len(texts))]

        async def collect() -> list[Row]:
            on_event = None if events is None else events.append
            rows: list[Row] = []
            known_rows = {} if known is None else known
            find = lambda sha, item: known_rows.get(sha)  # noqa: E731
            async for row in score_items(settings, items, find=find, on_event=on_event, stopping=stopping):
                rows.append(row)
                if row.is_final:
                    known_rows.setdefault(row.content_sha256, row)
            return rows

        return asyncio.run(collect())

    return run


@pytest.fixture
def server(make_contract: Callable[..., Contract]) -> Callable[..., Scripted]:
    return lambda script, **options: Scripted(make_contract(), script, **options)


async def well(source: bytes) -> None:
    await asyncio.sleep(0)


def raising(errors: dict[bytes, list[TubeletError]]) -> Script:
    """Answers with the next of a video's errors, and well when there are no more of them."""

    async def script(source: bytes) -> None:
        await asyncio.sleep(0)
        if left := errors.get(source):
            raise left.pop(0)

    return script


def test_every_item_gets_its_row(score: Callable[..., list[Row]], server: Callable[..., Scripted]) -> None:
    texts = [f"video {number}" for number in range(300)]
    one = server(well)
    rows = score(texts, one)
    assert sorted(row.labels[0].name for row in rows) == sorted(texts)
    assert {row.content_sha256 for row in rows} == {hashlib.sha256(text.encode()).hexdigest() for text in texts}
    assert all(row.error_code is None and row.size_bytes and row.views == 1 for row in rows)


def test_equal_contents_are_asked_once(score: Callable[..., list[Row]], server: Callable[..., Scripted]) -> None:
    one = server(well)
    rows = score(["a", "b", "a", "a"] * 50, one)
    assert sorted(one.asked) == [b"a", b"b"]
    assert Counter(row.copied_from is None for row in rows) == {True: 2, False: 198}
    assert all(row.labels[0].name == Path(row.item.uri).read_text() for row in rows)


def test_those_who_wait_for_an_answer_that_does_not_come_are_asked_themselves(
    score: Callable[..., list[Row]], server: Callable[..., Scripted]
) -> None:
    late: list[TubeletError] = [DeadlineError("deadline_exceeded", "late") for _ in range(2)]
    one = server(raising({b"a": late}))
    rows = score(["a", "a", "a"], one)
    assert sorted(row.error_code or "" for row in rows) == ["", "", "deadline_exceeded"]
    assert [row.copied_from is None for row in rows].count(True) == 2
    assert one.asked == [b"a"] * 3


def test_earlier_rows_are_found(score: Callable[..., list[Row]], server: Callable[..., Scripted]) -> None:
    earlier = score(["a"], server(well))[0]
    one = server(well)
    rows = score(["a", "b"], one, known={earlier.content_sha256: earlier})
    assert one.asked == [b"b"]
    assert {row.copied_from for row in rows} == {None, earlier.item.uri}


def test_errors_of_a_video_are_its_row(score: Callable[..., list[Row]], server: Callable[..., Scripted]) -> None:
    one = server(raising({b"bad": [InvalidVideoError("not_a_video", "no video")]}), limits=Limits(max_video_bytes=6))
    texts = ["good", "bad", "too large", "good"]
    rows = {Path(row.item.uri).name: row for row in score([*texts], one)}
    assert [rows[f"{n:04}"].error_code for n in range(4)] == [None, "not_a_video", "too_large", None]
    assert rows["0002"].content_sha256 is None
    assert sorted(one.asked) == [b"bad", b"good"]


def test_full_queues_are_never_in_a_row(score: Callable[..., list[Row]], server: Callable[..., Scripted]) -> None:
    async def script(source: bytes) -> None:
        full = one.in_flight > 2
        await asyncio.sleep(0)
        if full:
            raise OverloadedError("overloaded", "full")

    one = server(script)
    rows = score([f"video {number}" for number in range(40)], one)
    assert len(rows) == 40
    assert all(row.error_code is None for row in rows)


def test_a_video_that_ends_its_server_is_found_and_costs_the_others_nothing(
    score: Callable[..., list[Row]], server: Callable[..., Scripted]
) -> None:
    async def script(source: bytes) -> None:
        await asyncio.sleep(0.001)
        if source == b"killer":
            one.crash()

    one = server(script)
    events: list[Event] = []
    texts = [f"video {number}" for number in range(60)]
    texts[20] = texts[40] = "killer"
    rows = score(texts, one, events=events)
    assert Counter(row.error_code for row in rows) == {None: 58, "backend_lost": 2}
    assert {Path(row.item.uri).read_text() for row in rows if row.error_code} == {"killer"}
    assert one.asked.count(b"killer") == one.crashes == 4
    assert one.beside[b"killer"] == 0
    assert sum(isinstance(event, Away) for event in events) == 4
    assert sum(isinstance(event, Back) for event in events) == 5
    assert any(isinstance(event, SetAside) and event.uri.endswith("0020") for event in events)


def test_what_a_server_lost_is_asked_at_another(
    score: Callable[..., list[Row]], server: Callable[..., Scripted]
) -> None:
    async def dying(source: bytes) -> None:
        await asyncio.sleep(0)
        first.describe = away  # type: ignore[method-assign]
        raise LOST

    async def away() -> ModelDescription:
        raise LOST

    first, second = server(dying), server(well)
    rows = score([f"video {number}" for number in range(30)], first, second)
    assert [row.error_code for row in rows] == [None] * 30
    assert len(set(second.asked)) == 30
    assert len(first.asked) <= 4


def test_no_time_beside_others_is_tried_alone(score: Callable[..., list[Row]], server: Callable[..., Scripted]) -> None:
    late = DeadlineError("deadline_exceeded", "late")
    one = server(raising({b"slow": [late], b"never": [late, late]}))
    texts = [*(f"video {number}" for number in range(30)), "slow", "never"]
    rows = {Path(row.item.uri).read_text(): row.error_code for row in score(texts, one)}
    assert {text for text, code in rows.items() if code} == {"never"}
    assert rows["never"] == "deadline_exceeded"
    assert one.beside[b"slow"] == one.beside[b"never"] == 0


def test_another_contract_ends_the_run(score: Callable[..., list[Row]], server: Callable[..., Scripted]) -> None:
    one = server(raising({b"video 7": [ContractError("contract_mismatch", "another")]}))
    with pytest.raises(ContractError, match="another"):
        score([f"video {number}" for number in range(30)], one)


def test_patience_ends(score: Callable[..., list[Row]], server: Callable[..., Scripted]) -> None:
    one = server(well)

    async def away() -> ModelDescription:
        raise LOST

    one.describe = away  # type: ignore[method-assign]
    with pytest.raises(UnavailableError, match=r"for 0\.05 s; the last one said: lost"):
        score(["a"], one, patience_s=0.05)


def test_memory_is_kept_within_its_bound(score: Callable[..., list[Row]], server: Callable[..., Scripted]) -> None:
    async def script(source: bytes) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    one = server(script)
    texts = [f"{number:010}" for number in range(50)] + ["larger than all that there is"]
    rows = score(texts, one, memory_bytes=25, concurrency=8)
    assert len(rows) == 51
    assert one.most_in_flight == 2
    assert one.beside[texts[-1].encode()] == 0


def test_a_stop_waits_only_for_what_is_in_flight(
    score: Callable[..., list[Row]], server: Callable[..., Scripted]
) -> None:
    stopping = asyncio.Event()

    async def script(source: bytes) -> None:
        if len(one.asked) >= 20:
            stopping.set()
        await asyncio.sleep(0.001)

    one = server(script)
    rows = score([f"video {number}" for number in range(200)], one, stopping=stopping, concurrency=4)
    assert 20 <= len(rows) == len(one.asked) < 30
    assert all(row.error_code is None for row in rows)


def test_an_error_of_the_list_ends_the_run(
    make_contract: Callable[..., Contract], server: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tubelet.archive.server.open_classifier", lambda *_, **__: server(well))

    def items() -> Iterator[Item]:
        yield Item("/nowhere")
        raise InvalidRequestError("bad_input", "line 2 is broken")

    async def collect() -> None:
        settings = Settings(urls=("127.0.0.1:1",), run=RUN)
        async for _ in score_items(settings, items(), find=lambda sha, item: None):
            pass

    with pytest.raises(InvalidRequestError, match="line 2"):
        asyncio.run(collect())


ITEM, PART = Item("/a"), Item("/a", start_s=1.0)


def refusal() -> TubeletError:
    """What the client raises when a token is over."""
    with pytest.raises(TubeletError) as raised, translated_errors():
        raise InferenceServerException("token expired", status="StatusCode.UNAUTHENTICATED")
    return raised.value


@pytest.mark.parametrize(
    ("error", "item", "losses", "losses_alone", "was_alone", "expected"),
    [
        (LOST, ITEM, 1, 0, False, "again"),
        (LOST, ITEM, 2, 0, False, "alone"),
        (LOST, ITEM, 2, 1, True, "alone"),
        (LOST, ITEM, 2, 2, True, "row"),
        (InternalError("internal", ""), ITEM, 1, 0, False, "again"),
        (DeadlineError("cancelled", ""), ITEM, 2, 2, True, "row"),
        (DeadlineError("deadline_exceeded", ""), ITEM, 0, 0, False, "alone"),
        (DeadlineError("deadline_exceeded", ""), ITEM, 0, 0, True, "row"),
        (OverloadedError("overloaded", ""), ITEM, 0, 0, True, "refused"),
        (InvalidRequestError("bad_parameter", "who are you?"), ITEM, 0, 0, False, "end"),
        (InvalidRequestError("bad_parameter", "starts after its end"), PART, 0, 0, False, "row"),
        (refusal(), PART, 0, 0, False, "end"),
        (unreachable_error("certificate verify failed"), PART, 0, 0, False, "end"),
        (ContractError("contract_mismatch", ""), ITEM, 0, 0, False, "end"),
    ],
)
def test_verdicts(
    error: TubeletError, item: Item, losses: int, losses_alone: int, was_alone: bool, expected: str
) -> None:
    assert verdict_on(error, item, losses=losses, losses_alone=losses_alone, was_alone=was_alone) == expected
