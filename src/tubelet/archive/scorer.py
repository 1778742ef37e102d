r"""`score_items`: reads videos, asks the servers, and gives a row for every item, whatever happens to a server.

::

    items -> READERS tasks: read, hash, find -> ready -> request at the server with room -> rows
                     \-> same bytes under way: follow them      |-> again, first in ready
                                                                \-> suspects: alone, when nothing else is to do
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing

from tubelet.archive.budget import ByteBudget
from tubelet.archive.events import Answered, Event, Flow, SetAside
from tubelet.archive.files import Files
from tubelet.archive.fleet import Fleet
from tubelet.archive.items import Item, as_stream
from tubelet.archive.reading import READERS, Reader
from tubelet.archive.remote import StorageError
from tubelet.archive.rows import Row
from tubelet.archive.server import Server
from tubelet.archive.settings import Settings
from tubelet.archive.tasks import Tasks
from tubelet.archive.verdicts import MOST_LOSSES, is_loss, verdict_on
from tubelet.archive.work import Contents, Work, answer_row, copied_row, error_row
from tubelet.spec.errors import MachineError, TubeletError, UnavailableError

__all__ = ["Find", "score_items"]

Find = Callable[[str, Item], Row | Awaitable[Row | None] | None]
"""An earlier row of the same bytes (by their sha256) and the same part, if there is one."""

_AHEAD = 64
"""Videos that were read and wait for a server, and rows that wait for the caller; more are not begun."""
_MOST_ASIDE, _MOST_FOLLOWERS = 256, 10_000
"""Suspects, and items that wait for the row of the same bytes; with more, nothing new is begun until they are done."""


async def score_items(
    settings: Settings,
    items: AsyncIterable[Item] | Iterable[Item],
    *,
    find: Find,
    on_event: Callable[[Event], None] | None = None,
    stopping: asyncio.Event | None = None,
) -> AsyncGenerator[Row]:
    """Gives a row for every item, in the order in which they are done.

    What is wrong with a video becomes its row. What is wrong with a server is waited for: full queues, lost requests,
    servers that are away. Of equal bytes and parts only the first one is asked for.

    Args:
        settings: servers, run and bounds.
        items: what to score; taken as there is room, never far ahead.
        find: knows what was done before this call.
        on_event: hears what happens besides.
        stopping: once it is set no item is begun, requests in flight are waited for, and all others are dropped.

    Raises:
        ContractError: a server has, or has got, another contract than the run's.
        InvalidRequestError: a server refuses the run itself, or this caller.
        UnavailableError: no server, or not the items' storage, was there for ``patience_s``.
        MachineError: ``missing``, a package or credentials without which no address can be opened.
    """
    scorer = _Scorer(settings, find, on_event or (lambda event: None))
    async with aclosing(scorer.rows(as_stream(items), stopping)) as rows:
        async for row in rows:
            yield row


class _Scorer:
    """One call of `score_items`."""

    def __init__(self, settings: Settings, find: Find, tell: Callable[[Event], None]) -> None:
        self._run = settings.run
        self._find = find
        self._tell = tell
        self._budget = ByteBudget(settings.memory_bytes)
        self._reader = Reader(Files(settings.storage_options), self._budget, patience_s=settings.patience_s, tell=tell)
        self._fleet = Fleet(settings, tell, on_room=self._dispatch)
        self._ready: deque[Work] = deque()
        self._suspects: deque[Work] = deque()
        self._contents = Contents()
        self._done: asyncio.Queue[tuple[Work, Row] | Exception | None] = asyncio.Queue()
        self._space = asyncio.Event()
        self._taking = asyncio.Lock()
        self._tasks = Tasks(on_error=self._done.put_nowait)
        self._stopped = asyncio.Event()
        self._num_readers = READERS
        self._num_loading = self._num_asking = 0

    async def rows(self, items: AsyncIterator[Item], stopping: asyncio.Event | None) -> AsyncGenerator[Row]:
        """As `score_items`."""
        try:
            for server in self._fleet.servers:
                self._tasks.start(self._fleet.find(server))
            for _ in range(self._num_readers):
                self._tasks.start(self._read_on(items))
            if stopping is not None:
                self._tasks.start(self._stop_after(stopping))
            while (done := await self._done.get()) is not None:
                if isinstance(done, Exception):
                    raise done
                work, row = done
                yield row
                # Until now the same bytes were found here; from now on the caller's `find` knows them.
                self._contents.forget(work)
                self._move_on()
        finally:
            await self._tasks.cancel()
            await self._fleet.close()
            self._reader.close()

    @property
    def _is_crowded(self) -> bool:
        return (
            len(self._ready) + self._done.qsize() >= _AHEAD
            or len(self._suspects) >= _MOST_ASIDE
            or self._contents.num_following >= _MOST_FOLLOWERS
        )

    @property
    def _has_space(self) -> bool:
        """Whether all readers may go on: together, since the event loop then wakes up once for what they read."""
        return not self._is_crowded and len(self._ready) + self._done.qsize() <= _AHEAD - READERS

    async def _read_on(self, items: AsyncIterator[Item]) -> None:
        """Takes items and makes them ready, one at a time, until there are no more."""
        await self._fleet.first_up.wait()
        while not self._stopped.is_set():
            while self._is_crowded:
                self._space.clear()
                await self._space.wait()
            async with self._taking:
                item = None if self._stopped.is_set() else await anext(items, None)
            if item is None:
                break
            await self._prepare(Work(item))
        self._num_readers -= 1
        self._move_on()

    async def _prepare(self, work: Work) -> None:
        """Reads a video, and sends it on its way: to be asked for, or after another of the same bytes."""
        self._num_loading += 1
        try:
            await self._reader.read(work, most_bytes=self._fleet.max_video_bytes)
        except (MachineError, StorageError):
            raise
        except TubeletError as exc:
            self._finish(work, error_row(work, exc))
        else:
            await self._sort_in(work)
        finally:
            self._num_loading -= 1
            self._move_on()

    async def _sort_in(self, work: Work) -> None:
        """Finds out whether the same bytes were asked for before; if not, others follow this item from now on."""
        leader = self._contents.leader(work)
        if leader is work:
            found = self._find(work.content_sha256 or "", work.item)
            if isinstance(found, Awaitable):
                found = await found
            if found is None:
                self._ready.append(work)
            else:
                self._finish(work, copied_row(found, work))
        elif leader.row is not None:
            self._finish(work, copied_row(leader.row, work))
        else:
            self._reader.drop(work)
            self._contents.follow(work, leader)

    def _move_on(self) -> None:
        """After anything has happened: sends what can be sent, lets readers go on, and sees whether all is done."""
        self._dispatch()
        if self._has_space:
            self._space.set()
        if self._stopped.is_set():
            is_done = not self._num_asking
        else:
            under_way = self._num_loading + self._num_asking + self._contents.num_following + len(self._ready)
            is_done = not (self._num_readers or under_way or self._suspects)
        if is_done:
            self._done.put_nowait(None)

    def _dispatch(self) -> None:
        """Sends what is ready, and suspects when nothing else is to do."""
        if self._stopped.is_set():
            return
        while self._ready and (server := self._fleet.with_room()) is not None:
            self._send(self._ready.popleft(), server)
        if self._ready or self._num_loading or (self._num_readers and not self._is_crowded):
            return
        while self._suspects and (server := self._fleet.idle()) is not None:
            server.has_guest = True
            self._send(self._suspects.popleft(), server)

    def _send(self, work: Work, server: Server) -> None:
        self._num_asking += 1
        server.in_flight += 1
        self._tasks.start(self._ask(work, server))

    async def _ask(self, work: Work, server: Server) -> None:
        """Asks for one answer, and decides what follows."""
        was_alone = server.has_guest
        self._tell_flow(server)
        began_s = time.monotonic()
        outcome = "ok"
        try:
            if (content := work.content) is None:
                content = await self._reader.read(work, most_bytes=self._fleet.max_video_bytes)
            answer = await server.ask(work.item, content)
        except StorageError:
            raise
        except TubeletError as exc:
            outcome = exc.code
            self._judge(work, server, exc, was_alone=was_alone)
        else:
            self._finish(work, answer_row(work, answer, self._run))
        finally:
            server.in_flight -= 1
            self._num_asking -= 1
            if was_alone:
                server.has_guest = False
        self._tell(Answered(server.url, time.monotonic() - began_s, outcome))
        self._tell_flow(server)
        self._move_on()

    def _judge(self, work: Work, server: Server, error: TubeletError, *, was_alone: bool) -> None:
        """Decides what becomes of an item whose request failed.

        Raises:
            TubeletError: the run itself cannot go on.
        """
        if isinstance(error, UnavailableError) and server.is_up:
            self._fleet.lose(server, error.message)
            self._tasks.start(self._fleet.find(server))
        if is_loss(error):
            work.losses += not was_alone
            work.losses_alone += was_alone
        verdict = verdict_on(error, work.item, losses=work.losses, losses_alone=work.losses_alone, was_alone=was_alone)
        if verdict == "end":
            raise error
        if verdict == "row":
            self._finish(work, error_row(work, error))
        elif self._stopped.is_set():
            self._reader.drop(work)
        elif verdict == "alone":
            self._reader.drop(work)
            self._suspects.append(work)
            self._tell(SetAside(work.item.uri, error.message))
        else:
            self._ready.appendleft(work)
            asyncio.get_running_loop().call_later(server.held_s, self._move_on)

    def _finish(self, work: Work, row: Row) -> None:
        """Hands a row over, also to those that follow; where it says nothing about the bytes, these are asked for."""
        self._reader.drop(work)
        work.row = row
        self._done.put_nowait((work, row))
        followers = self._contents.followers(work)
        if row.is_final or work.losses_alone >= MOST_LOSSES:
            for follower in followers:
                self._finish(follower, copied_row(row, follower))
        else:
            self._contents.forget(work)
            self._num_loading += len(followers)
            if followers:
                self._tasks.start(self._prepare_again(followers))

    async def _prepare_again(self, works: list[Work]) -> None:
        """The first one leads the others."""
        for work in works:
            self._num_loading -= 1
            await self._prepare(work)

    async def _stop_after(self, stopping: asyncio.Event) -> None:
        """Drops all that is not in flight, once it is told to."""
        await stopping.wait()
        self._stopped.set()
        self._ready.clear()
        self._suspects.clear()
        self._space.set()
        self._move_on()

    def _tell_flow(self, server: Server) -> None:
        self._tell(Flow(server.url, server.in_flight, server.pace.limit, self._budget.used))
