"""What the driver of a cluster does with batches that come back, and with those that do not; of a scripted cluster."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

from tubelet.archive import ray as module  # noqa: E402
from tubelet.archive.events import Back, Event  # noqa: E402
from tubelet.archive.items import Item  # noqa: E402
from tubelet.archive.rows import Row, Run  # noqa: E402
from tubelet.archive.settings import Settings  # noqa: E402
from tubelet.spec.errors import ContractError, InternalError, MachineError, UnavailableError  # noqa: E402

RUN = Run(model="m", protocol="1x1", contract_digest="d", top=5, keeps_logits=False)
URLS = ("a", "b", "c")
ITEMS = [Item(f"/{number}.mp4") for number in range(100)]
Task = Callable[[Settings, Sequence[Item]], Awaitable[Any]]


def row(item: Item) -> Row:
    return Row(item=item, content_sha256=None, size_bytes=1, started_s=0.0, finished_s=1.0)


async def answered(settings: Settings, items: Sequence[Item]) -> Any:
    events: list[Event] = [Back(url) for url in settings.urls]
    return module._Scored([row(item) for item in items], events, 1.0)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[[Task], None]:
    """Replaces the cluster by a function."""

    @asynccontextmanager
    async def connected(address: str) -> AsyncIterator[None]:
        yield

    async def answer_questions(liaison: Any, find: Any) -> None:
        await asyncio.Event().wait()

    async def end_questions(liaison: Any, answering: asyncio.Task[None]) -> None:
        answering.cancel()

    def play(task: Task) -> None:
        remote = SimpleNamespace(remote=lambda settings, items, liaison, version: task(settings, items))
        monkeypatch.setattr(ray, "remote", lambda **wishes: lambda function: remote)
        monkeypatch.setattr(module, "connected", connected)
        monkeypatch.setattr(module, "start_liaison", lambda: SimpleNamespace(stop=SimpleNamespace(remote=lambda: None)))
        monkeypatch.setattr(module, "answer_questions", answer_questions)
        monkeypatch.setattr(module, "end_questions", end_questions)
        monkeypatch.setattr(module, "count_cpus", lambda: 4)

    return play


def rows_of(
    items: Sequence[Item], *, patience_s: float = 600.0, stopping: asyncio.Event | None = None, **wishes: Any
) -> list[Row]:
    settings = Settings(urls=URLS, run=RUN, patience_s=patience_s)

    async def run() -> list[Row]:
        found = module.score_on_ray(
            "local", settings, items, find=lambda sha256, item: None, stopping=stopping, **wishes
        )
        return [row async for row in found]

    return asyncio.run(run())


def test_every_item_has_one_row_and_servers_are_told_of_once(cluster: Callable[[Task], None]) -> None:
    cluster(answered)
    events: list[Event] = []
    assert Counter(row.item for row in rows_of([ITEMS[0], *ITEMS], on_event=events.append)) == Counter(ITEMS)
    assert Counter(events) == Counter(Back(url) for url in URLS)


def test_an_item_that_kills_its_process_is_found_and_the_others_are_scored(cluster: Callable[[Task], None]) -> None:
    poison = ITEMS[42]

    async def task(settings: Settings, items: Sequence[Item]) -> Any:
        if poison in items:
            raise ray.exceptions.WorkerCrashedError
        return await answered(settings, items)

    cluster(task)
    rows = rows_of(ITEMS)
    assert Counter(row.item for row in rows) == Counter(ITEMS)
    assert [(row.item, row.error_code) for row in rows if row.error_code] == [(poison, "internal")]


def test_a_batch_whose_servers_are_away_is_sent_to_others(cluster: Callable[[Task], None]) -> None:
    async def task(settings: Settings, items: Sequence[Item]) -> Any:
        if "c" not in settings.urls:
            return UnavailableError("backend_lost", "away")
        return await answered(settings, items)

    cluster(task)
    assert Counter(row.item for row in rows_of(ITEMS)) == Counter(ITEMS)


def test_the_run_ends_when_no_server_is_there_for_too_long(cluster: Callable[[Task], None]) -> None:
    async def task(settings: Settings, items: Sequence[Item]) -> Any:
        return UnavailableError("backend_lost", "all away")

    cluster(task)
    with pytest.raises(UnavailableError, match="all away"):
        rows_of(ITEMS, patience_s=0.01)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ContractError("contract_mismatch", "another model"), ContractError),
        (ray.exceptions.RaySystemError("the raylet is gone"), UnavailableError),
        (ray.exceptions.RayTaskError("f", "traceback", ZeroDivisionError("by zero")), InternalError),
        (ray.exceptions.RayTaskError("f", "traceback", ModuleNotFoundError("No module named 'tubelet'")), MachineError),
    ],
)
def test_what_no_other_batch_could_do_better_ends_the_run(
    cluster: Callable[[Task], None], error: Exception, raised: type[Exception]
) -> None:
    async def task(settings: Settings, items: Sequence[Item]) -> Any:
        if isinstance(error, ContractError):
            return error
        raise error

    cluster(task)
    with pytest.raises(raised):
        rows_of(ITEMS)


def test_a_task_that_leaves_an_item_out_is_noticed(cluster: Callable[[Task], None]) -> None:
    async def task(settings: Settings, items: Sequence[Item]) -> Any:
        return await answered(settings, items[1:])

    cluster(task)
    with pytest.raises(InternalError, match="7 rows for 8 items"):
        rows_of(ITEMS)


def test_after_a_stop_nothing_is_begun_and_what_is_in_flight_is_kept(cluster: Callable[[Task], None]) -> None:
    stopping = asyncio.Event()
    sent: list[Item] = []

    async def task(settings: Settings, items: Sequence[Item]) -> Any:
        sent.extend(items)
        stopping.set()
        return await answered(settings, items)

    cluster(task)
    rows = rows_of(ITEMS, stopping=stopping)
    assert Counter(row.item for row in rows) == Counter(sent)
    assert len(sent) < len(ITEMS)
