"""`score_archive`: the ledger works in threads, and what came before a run broke down is kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import RUN, made_row

from tubelet.archive.items import Item
from tubelet.archive.ledger import Ledger
from tubelet.archive.parts import read_rows
from tubelet.archive.rows import Row
from tubelet.archive.score import score_archive
from tubelet.archive.settings import Settings
from tubelet.archive.sources import Source
from tubelet.spec.errors import UnavailableError

SETTINGS = Settings(urls=("127.0.0.1:1",), run=RUN)
NUM_ITEMS = 1200


def source() -> Source:
    def items() -> Iterator[Item]:
        return (made_row(number).item for number in range(NUM_ITEMS))

    return Source("numbers", items)


def row_of(item: Item) -> Row:
    return made_row(int(Path(item.uri).stem))


async def answered(settings: Settings, items: AsyncIterable[Item], **wishes: Any) -> AsyncGenerator[Row]:
    async for item in items:
        yield row_of(item)


def uris(folder: Path) -> list[str]:
    return [row["uri"] for batch in read_rows(folder) for row in batch.to_pylist()]


def test_the_event_loop_goes_on_while_the_ledger_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = threading.Event()
    add = Ledger.add

    def slow(ledger: Ledger, rows: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            assert heard.wait(30), "the event loop stood still"
        add(ledger, rows)

    async def beside() -> None:
        scoring = asyncio.create_task(score_archive(source(), tmp_path, SETTINGS, scoring=answered))
        await asyncio.sleep(0.1)
        heard.set()
        assert (await scoring).done == NUM_ITEMS

    monkeypatch.setattr(Ledger, "add", slow)
    asyncio.run(beside())
    assert heard.is_set()
    assert sorted(uris(tmp_path)) == [made_row(number).item.uri for number in range(NUM_ITEMS)]


def test_one_thread_works_for_the_ledger_however_much_is_asked_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[threading.Thread]] = {"add": set(), "find": set()}

    def noting(name: str) -> Any:
        act = getattr(Ledger, name)

        def noted(ledger: Ledger, *values: Any) -> Any:
            threads[name].add(threading.current_thread())
            return act(ledger, *values)

        return noted

    async def asking(settings: Settings, items: AsyncIterable[Item], **wishes: Any) -> AsyncGenerator[Row]:
        async def ask(number: int) -> None:
            while True:
                assert await wishes["find"](f"{NUM_ITEMS + number:064x}", made_row(number).item) is None
                await asyncio.sleep(0)

        others = [asyncio.create_task(ask(number)) for number in range(4)]
        async for item in items:
            yield row_of(item)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    for name in threads:
        monkeypatch.setattr(Ledger, name, noting(name))
    asyncio.run(score_archive(source(), tmp_path, SETTINGS, scoring=asking))
    beside = {name: found - {threading.main_thread()} for name, found in threads.items()}
    assert len(beside["add"]) == 1
    assert beside["find"] == beside["add"]


def test_rows_that_wait_and_rows_that_are_written_are_found(tmp_path: Path) -> None:
    async def finding(settings: Settings, items: AsyncIterable[Item], **wishes: Any) -> AsyncGenerator[Row]:
        async for item in items:
            row = row_of(item)
            assert await wishes["find"](row.content_sha256, item) is None
            yield row
            found = await wishes["find"](row.content_sha256, item)
            assert found.item == item

    summary = asyncio.run(score_archive(source(), tmp_path, SETTINGS, scoring=finding, part_rows=150))
    assert (summary.done, summary.parts) == (NUM_ITEMS, 8)


def test_what_came_before_the_end_is_kept_and_not_scored_again(tmp_path: Path) -> None:
    async def breaking(settings: Settings, items: AsyncIterable[Item], **wishes: Any) -> AsyncGenerator[Row]:
        number = 0
        async for item in items:
            if (number := number + 1) > 1050:
                raise UnavailableError("backend_lost", "gone")
            yield row_of(item)

    with pytest.raises(UnavailableError, match="gone"):
        asyncio.run(score_archive(source(), tmp_path, SETTINGS, scoring=breaking))
    assert len(uris(tmp_path)) == 1050
    summary = asyncio.run(score_archive(source(), tmp_path, SETTINGS, scoring=answered))
    assert (summary.before, summary.tally.done, summary.done) == (1050, NUM_ITEMS - 1050, NUM_ITEMS)
    assert len(set(uris(tmp_path))) == NUM_ITEMS
