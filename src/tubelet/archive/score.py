"""`score_archive`: from a source to Parquet, by way of the ledger; the same call again goes on where one ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from itertools import islice
from pathlib import Path
from typing import Protocol

from tubelet.archive.counting import counted_beside
from tubelet.archive.events import Event
from tubelet.archive.items import Item
from tubelet.archive.ledger import Ledger
from tubelet.archive.parts import part_numbers
from tubelet.archive.rows import Row
from tubelet.archive.scorer import score_items
from tubelet.archive.settings import Settings
from tubelet.archive.sources import Source
from tubelet.archive.summary import Summary, Tally
from tubelet.archive.watching import Watcher

__all__ = ["Scoring", "score_archive"]

_MOST_WAITING_ROWS, _MOST_WAITING_S = 100, 1.0
"""Rows that a killed process may lose, and how old they may be; what is lost is scored again."""
_TICK_S = 0.5
_LISTED_AHEAD = 1000
"""Addresses that are taken from the source at a time, in a thread: a listing may wait for its storage."""
_GRACE_S = 60.0
"""How long requests in flight are waited for after a stop."""


class Scoring(Protocol):
    """`tubelet.archive.scorer.score_items`, or what does the same on other machines."""

    def __call__(
        self,
        settings: Settings,
        items: AsyncIterable[Item],
        *,
        find: Callable[[str, Item], Row | None],
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
                await _run(source, settings, book, stopping, scoring)
        finally:
            # Also what came before the run broke down is worth keeping.
            book.save()
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
    """Takes rows, and writes them into the ledger some at a time; knows those that wait."""

    def __init__(self, ledger: Ledger, watchers: Sequence[Watcher]) -> None:
        self.ledger = ledger
        self.tally = Tally()
        self.watchers = watchers
        self._waiting: list[Row] = []
        self._by_content: dict[tuple[str | None, float | None, float | None], Row] = {}
        self._since_s = 0.0

    def take(self, row: Row) -> None:
        """Takes a row; saves, when there are enough."""
        if not self._waiting:
            self._since_s = time.monotonic()
        self._waiting.append(row)
        if row.is_final:
            self._by_content.setdefault((row.content_sha256, row.item.start_s, row.item.end_s), row)
        self.tally.add(row)
        for watcher in self.watchers:
            watcher.row(row)
        if len(self._waiting) >= _MOST_WAITING_ROWS:
            self.save()
        else:
            self.save_old()

    def find(self, content_sha256: str, item: Item) -> Row | None:
        """An earlier row of the same bytes and the same part."""
        waiting = self._by_content.get((content_sha256, item.start_s, item.end_s))
        return self.ledger.find(content_sha256, item) if waiting is None else waiting

    def save_old(self) -> None:
        """Saves what has waited long enough."""
        if self._waiting and time.monotonic() - self._since_s >= _MOST_WAITING_S:
            self.save()

    def save(self) -> None:
        """Makes all rows durable."""
        if self._waiting:
            self.ledger.add(self._waiting)
            self._waiting = []
            self._by_content.clear()

    def count(self, total: int) -> None:
        """Passes the number of items on."""
        for watcher in self.watchers:
            watcher.counted(total)

    def tell(self, event: Event) -> None:
        """Passes an event on."""
        for watcher in self.watchers:
            watcher.event(event)


async def _run(source: Source, settings: Settings, book: _Book, stopping: asyncio.Event, scoring: Scoring) -> None:
    """Scores until all is done, or until the grace after a stop is over."""
    taking = asyncio.create_task(_take_all(source, settings, book, stopping, scoring))
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


async def _take_all(source: Source, settings: Settings, book: _Book, stopping: asyncio.Event, scoring: Scoring) -> None:
    items = _unfinished(source, book.ledger, stopping)
    rows = scoring(settings, items, find=book.find, on_event=book.tell, stopping=stopping)
    async with aclosing(rows):
        async for row in rows:
            book.take(row)


async def _unfinished(source: Source, ledger: Ledger, stopping: asyncio.Event) -> AsyncIterator[Item]:
    items = iter(source.items())
    while batch := await asyncio.to_thread(lambda: list(islice(items, _LISTED_AHEAD))):
        for item in ledger.unfinished(batch):
            yield item
        if stopping.is_set():
            return


async def _keep_time(book: _Book, stopping: asyncio.Event) -> None:
    """Saves what has waited long enough, lets watchers look; ends when the grace after a stop does."""
    stop_s = None
    while stop_s is None or time.monotonic() - stop_s < _GRACE_S:
        await asyncio.sleep(_TICK_S)
        book.save_old()
        for watcher in book.watchers:
            watcher.tick()
        if stop_s is None and stopping.is_set():
            stop_s = time.monotonic()
