"""`score_archive`: from a source to Parquet, by way of the ledger; the same call again goes on where one ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from itertools import islice
from pathlib import Path
from typing import Protocol

from tubelet.archive.counting import counted_beside
from tubelet.archive.events import Event
from tubelet.archive.items import Identity, Item
from tubelet.archive.ledger import Ledger
from tubelet.archive.parts import part_numbers
from tubelet.archive.rows import Row
from tubelet.archive.scorer import Find, score_items
from tubelet.archive.settings import Settings
from tubelet.archive.sources import Source
from tubelet.archive.summary import Summary, Tally
from tubelet.archive.watching import Watcher

__all__ = ["Scoring", "score_archive"]

_MOST_WAITING_ROWS, _MOST_WAITING_S = 100, 1.0
"""Rows that a killed process may lose, and how old they may be; what is lost is scored again."""
_TICK_S = 0.5
_LISTED_AHEAD = 1000
"""Addresses that are taken from the source and looked up at a time, in a thread: a listing may wait for its storage."""
_GRACE_S = 60.0
"""How long requests in flight are waited for after a stop."""


class Scoring(Protocol):
    """`tubelet.archive.scorer.score_items`, or what does the same on other machines."""

    def __call__(
        self,
        settings: Settings,
        items: AsyncIterable[Item],
        *,
        find: Find,
        on_event: Callable[[Event], None],
        stopping: asyncio.Event,
    ) -> AsyncGenerator[Row]:
        """As `score_items`."""


async def score_archive(
    source: Source,
    folder: Path,
    settings: Settings,
    *,
    part_rows: int = 10_000,
    watchers: Sequence[Watcher] = (),
    stopping: asyncio.Event | None = None,
    scoring: Scoring = score_items,
    counts_beside: bool = False,
) -> Summary:
    """Scores all items of a source that have no row in ``folder`` yet.

    Args:
        source: of the items.
        folder: for the ledger and the parts.
        settings: servers, run and bounds.
        part_rows: rows of a part.
        watchers: hear of what happens.
        stopping: once it is set, no item is begun; those in flight are finished, for a minute at the most.
        scoring: who asks the servers.
        counts_beside: whether a source of unknown length is read once more, to tell the time that is left.

    Raises:
        InvalidRequestError: the folder belongs to another run, or the source cannot be read.
        ContractError: a server has another contract than the run's, or the folder is damaged.
        UnavailableError: no server was there for as long as patience lasts.
        MachineError: the disk is full, or cannot be written.
    """
    stopping = stopping or asyncio.Event()
    with Ledger.open(folder, settings.run, part_rows=part_rows) as ledger:
        before = ledger.counts()
        for watcher in watchers:
            watcher.began(before)
        began_s = time.monotonic()
        book = _Book(ledger, watchers)
        try:
            async with AsyncExitStack() as stack:
                if (total := source.count()) is not None:
                    book.count(total)
                elif counts_beside:
                    await stack.enter_async_context(counted_beside(source, book.count))
                await _run(_unfinished(source, ledger, stopping), settings, book, stopping, scoring)
        finally:
            # Also what came before the run broke down is worth keeping.
            book.close()
            ledger.flush()
        counts = ledger.counts()
        return Summary(
            folder=folder,
            tally=book.tally,
            before=before.done,
            done=counts.done,
            failed=counts.failed,
            parts=len(part_numbers(folder)),
            seconds=time.monotonic() - began_s,
            is_complete=not stopping.is_set(),
        )


class _Book:
    """Takes rows, and writes them into the ledger some at a time; knows those that wait.

    They are written in a thread: a part that becomes full takes the ledger half a second, and requests go on meanwhile.
    It is always the same one, since each thread that has written a part keeps some of the memory for its next.
    """

    def __init__(self, ledger: Ledger, watchers: Sequence[Watcher]) -> None:
        self.tally = Tally()
        self.watchers = watchers
        self._ledger = ledger
        self._saving = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._waiting: list[Row] = []
        self._by_content: dict[Identity, Row] = {}
        self._since_s = 0.0

    async def take(self, row: Row) -> None:
        """Takes a row; saves, when there are enough."""
        if not self._waiting:
            self._since_s = time.monotonic()
        self._waiting.append(row)
        if row.is_final:
            self._by_content.setdefault(row.item.identity(row.content_sha256), row)
        self.tally.add(row)
        for watcher in self.watchers:
            watcher.row(row)
        if len(self._waiting) >= _MOST_WAITING_ROWS:
            await self._save()
        else:
            await self.save_old()

    async def find(self, content_sha256: str, item: Item) -> Row | None:
        """An earlier row of the same bytes and the same part."""
        waiting = self._by_content.get(item.identity(content_sha256))
        if waiting is not None:
            return waiting
        if not self._saving.locked():
            return self._ledger.find(content_sha256, item)  # quicker than the way to a thread
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._ledger.find, content_sha256, item)

    async def save_old(self) -> None:
        """Saves what has waited long enough."""
        if self._waiting and time.monotonic() - self._since_s >= _MOST_WAITING_S:
            await self._save()

    def close(self) -> None:
        """Saves all that waits, before this returns."""
        self._thread.shutdown(cancel_futures=True)
        self._ledger.add(self._waiting)

    async def _save(self) -> None:
        async with self._saving:
            rows = self._waiting.copy()
            await asyncio.get_running_loop().run_in_executor(self._thread, self._ledger.add, rows)
            # Others have come meanwhile. What is durable is found there from now on.
            del self._waiting[: len(rows)]
            self._since_s = time.monotonic()
            for row in rows:
                self._by_content.pop(row.item.identity(row.content_sha256), None)

    def count(self, total: int) -> None:
        """Passes the number of items on."""
        for watcher in self.watchers:
            watcher.counted(total)

    def tell(self, event: Event) -> None:
        """Passes an event on."""
        for watcher in self.watchers:
            watcher.event(event)


async def _run(
    items: AsyncIterator[Item], settings: Settings, book: _Book, stopping: asyncio.Event, scoring: Scoring
) -> None:
    """Scores until all is done, or until the grace after a stop is over."""
    taking = asyncio.create_task(_take_all(items, settings, book, stopping, scoring))
    timing = asyncio.create_task(_keep_time(book, stopping))
    try:
        await asyncio.wait((taking, timing), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (taking, timing):
            task.cancel()
        results = await asyncio.gather(taking, timing, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _take_all(
    items: AsyncIterator[Item], settings: Settings, book: _Book, stopping: asyncio.Event, scoring: Scoring
) -> None:
    rows = scoring(settings, items, find=book.find, on_event=book.tell, stopping=stopping)
    async with aclosing(rows):
        async for row in rows:
            await book.take(row)


async def _unfinished(source: Source, ledger: Ledger, stopping: asyncio.Event) -> AsyncIterator[Item]:
    listed = iter(source.items())

    def look_up() -> tuple[list[Item], list[Item]]:
        batch = list(islice(listed, _LISTED_AHEAD))
        return batch, list(ledger.unfinished(batch))

    while not stopping.is_set():
        batch, unfinished = await asyncio.to_thread(look_up)
        for item in unfinished:
            yield item
        if not batch:
            return


async def _keep_time(book: _Book, stopping: asyncio.Event) -> None:
    """Saves what has waited long enough, lets watchers look; ends when the grace after a stop does."""
    stop_s = None
    while stop_s is None or time.monotonic() - stop_s < _GRACE_S:
        await asyncio.sleep(_TICK_S)
        await book.save_old()
        for watcher in book.watchers:
            watcher.tick()
        if stop_s is None and stopping.is_set():
            stop_s = time.monotonic()
