"""Scores on a Ray cluster: tasks run `score_items` on batches of items, and their rows come back here.

A task changes nothing but its answer, so Ray runs it again wherever it was lost. The rows of a batch come all together:
they are in no order that a second run would repeat, as Ray asks of tasks that give their results one by one. Whoever
takes the rows writes them; a cluster of any size has one ledger. docs/adr/0022-ray.md has the reasons.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from tubelet import __version__
from tubelet.archive.batches import Batch, Batches, BatchSize, Ring
from tubelet.archive.events import Away, Back, Event, Flow
from tubelet.archive.items import Identity, Item
from tubelet.archive.ray_cluster import connected, count_cpus
from tubelet.archive.ray_liaison import answer_questions, ask, end_questions, start_liaison, wait_for_stop
from tubelet.archive.rows import Row
from tubelet.archive.scorer import Find, score_items
from tubelet.archive.settings import Settings
from tubelet.spec.errors import InternalError, MachineError, TubeletError, UnavailableError

__all__ = ["score_on_ray"]

_TASKS_PER_SERVER = 4
"""Batches at work for each server. Each keeps a few requests in flight from the first; with more it is too much."""
_TASK_RETRIES = 3
"""How often Ray runs a task again whose process or machine was lost, before its batch is cut in two."""
_TASK_PATIENCE_S = 60.0
"""How long a task waits for its two servers; then the batch is sent to others."""
_LOOK_S = 5.0
"""How old the number of the cluster's CPUs may be."""


@dataclass(frozen=True, slots=True)
class _Scored:
    rows: list[Row]
    events: list[Event]
    seconds: float


_Answer = _Scored | TubeletError
"""Of a task."""


async def score_on_ray(
    address: str,
    settings: Settings,
    items: AsyncIterable[Item] | Iterable[Item],
    *,
    find: Find,
    on_event: Callable[[Event], None] | None = None,
    stopping: asyncio.Event | None = None,
) -> AsyncGenerator[Row, None]:
    """As `tubelet.archive.scorer.score_items`, by the machines of a cluster; each must be able to open all items.

    Bytes that had their answer before a batch began, or that come twice in a batch, are not asked for again; bytes that
    two batches hold at the same time are.

    Args:
        address: of the cluster, as `tubelet.archive.ray_cluster.connected` takes it.
        settings: each task uses two of the servers, and ``memory_bytes`` for itself: Ray places as many tasks on a
            machine as its memory allows.
        items: what to score; taken as there is room, a few batches ahead.
        find: an earlier row of the same bytes (by their sha256) and the same part; called here, not in the cluster.
        on_event: hears what happens besides, when a batch has come back; not how full servers are.
        stopping: once it is set no item is begun, requests in flight are waited for, and all others are dropped.

    Raises:
        InvalidRequestError: there is no such address; or a server refuses the run itself, or this caller.
        ContractError: a server has, or has got, another contract than the run's.
        UnavailableError: there is no cluster, or it was lost; or no server was there for ``patience_s``.
        MachineError: the cluster's machines have another version of tubelet, Ray or Python, or lack a package.
    """
    async with connected(address):
        driver = _Driver(settings, items, on_event or (lambda event: None))
        answering = asyncio.create_task(answer_questions(driver.liaison, find))
        try:
            async with aclosing(driver.rows(answering, stopping or asyncio.Event())) as rows:
                async for row in rows:
                    yield row
        finally:
            await end_questions(driver.liaison, answering)


class _Driver:
    """Keeps batches in flight, as many as the cluster has CPUs for twice, and as the servers can take."""

    def __init__(
        self, settings: Settings, items: AsyncIterable[Item] | Iterable[Item], tell: Callable[[Event], None]
    ) -> None:
        import ray

        self._settings = settings
        self._tell = tell
        self._size = BatchSize()
        self._batches = Batches(items, self._size)
        self._ring = Ring(settings.urls)
        self._running: dict[asyncio.Future[_Answer], tuple[Batch, int]] = {}
        self._looked_s = float("-inf")
        self._num_cpus = 0
        self._answered_s = time.monotonic()
        self._is_stopping = False
        self._is_up: dict[str, bool] = {}
        self.liaison = start_liaison()
        # Ray starts no more of them on a machine than its memory and its CPUs allow.
        as_task = ray.remote(num_cpus=1, memory=settings.memory_bytes, max_retries=_TASK_RETRIES)
        self._score: Any = as_task(_score_batch)

    async def rows(self, answering: asyncio.Task[None], stopping: asyncio.Event) -> AsyncGenerator[Row, None]:
        """Rows of all items, batch by batch, as long as questions are answered."""
        stopped: asyncio.Future[Any] = asyncio.ensure_future(stopping.wait())
        try:
            while True:
                if not stopping.is_set():
                    await self._fill()
                if not self._running:
                    break
                await self._wait(answering, stopped)
                for future in [future for future in self._running if future.done()]:
                    batch, place = self._running.pop(future)
                    self._ring.give(place)
                    for row in self._receive(batch, future):
                        yield row
        finally:
            stopped.cancel()
            for future in self._running:
                future.cancel()

    async def _wait(self, answering: asyncio.Task[None], stopped: asyncio.Future[Any]) -> None:
        """Waits for a batch to come back; tells the tasks of a stop."""
        done, _ = await asyncio.wait(
            {answering, *self._running, *(() if self._is_stopping else (stopped,))},
            return_when=asyncio.FIRST_COMPLETED,
        )
        if answering in done:
            answering.result()
        if stopped in done:
            self._is_stopping = True
            self.liaison.stop.remote()

    async def _fill(self) -> None:
        """Sends batches until enough are in flight."""
        if time.monotonic() - self._looked_s > _LOOK_S:
            self._num_cpus = await asyncio.to_thread(count_cpus)
            self._looked_s = time.monotonic()
        # Twice the CPUs: the next batch lies ready, and a cluster that grows by demand sees some.
        enough = max(2, min(2 * self._num_cpus, _TASKS_PER_SERVER * len(self._ring)))
        while len(self._running) < enough and (batch := await self._batches.next()) is not None:
            place, urls = self._ring.take()
            patience_s = min(self._settings.patience_s, _TASK_PATIENCE_S)
            settings = replace(self._settings, urls=urls, patience_s=patience_s)
            answer = self._score.remote(settings, batch.items, self.liaison, __version__)
            self._running[asyncio.ensure_future(answer)] = batch, place

    def _receive(self, batch: Batch, future: asyncio.Future[_Answer]) -> Sequence[Row]:
        """The rows of a batch that has come back; none, where it has to be sent again."""
        from ray import exceptions

        try:
            answer = future.result()
        except exceptions.RayTaskError as exc:
            raise _broken(exc.cause) from exc
        except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError, exceptions.NodeDiedError) as exc:
            return self._narrow_down(batch, exc)
        except exceptions.RayError as exc:
            raise UnavailableError("backend_lost", f"the Ray cluster was lost: {_line(exc)}") from exc
        if isinstance(answer, UnavailableError) and time.monotonic() - self._answered_s < self._settings.patience_s:
            self._batches.again(batch)
            return []
        if isinstance(answer, TubeletError):
            raise answer
        if len(answer.rows) != len(batch.items) and not self._is_stopping:
            raise InternalError("internal", f"a task gave {len(answer.rows)} rows for {len(batch.items)} items")
        self._answered_s = time.monotonic()
        self._size.took(len(batch.items), answer.seconds)
        self._batches.done(batch)
        for event in answer.events:
            if self._is_news(event):
                self._tell(event)
        return answer.rows

    def _is_news(self, event: Event) -> bool:
        """Whether an event says more than that another task has found the servers as they were."""
        if not isinstance(event, Away | Back):
            return True
        is_up = isinstance(event, Back)
        was_up = self._is_up.get(event.server)
        self._is_up[event.server] = is_up
        return is_up != was_up

    def _narrow_down(self, batch: Batch, exc: Exception) -> Sequence[Row]:
        """After machines were lost with this batch again and again: tries its halves; what kills one alone is a row."""
        if len(batch.items) > 1:
            self._batches.again(*batch.halves())
            return []
        self._batches.done(batch)
        now_s = time.time()
        error = InternalError("internal", f"its process ended {_TASK_RETRIES + 1} times: {_line(exc)}")
        return [
            Row(
                item=item,
                content_sha256=None,
                size_bytes=None,
                started_s=now_s,
                finished_s=now_s,
                error_code=error.code,
                error_message=error.message,
            )
            for item in batch.items
        ]


def _score_batch(settings: Settings, items: Sequence[Item], liaison: Any, version: str) -> _Answer:
    """The task; errors of ours are results, so that Ray leaves them as they are."""
    if version != __version__:
        return MachineError("missing", f"tubelet {version} began the run, a machine of the cluster has {__version__}")
    try:
        return asyncio.run(_score(settings, items, liaison))
    except TubeletError as exc:
        return exc


async def _score(settings: Settings, items: Sequence[Item], liaison: Any) -> _Scored:
    rows: list[Row] = []
    events: list[Event] = []
    known: dict[Identity, Row] = {}

    async def find(content_sha256: str, item: Item) -> Row | None:
        identity = item.identity(content_sha256)
        found = known.get(identity) or await ask(liaison, content_sha256, item)
        return found or known.get(identity)

    def on_event(event: Event) -> None:
        if not isinstance(event, Flow):
            events.append(event)

    stopping = asyncio.Event()
    heeding = asyncio.create_task(wait_for_stop(liaison, stopping))
    began_s = time.monotonic()
    scored = score_items(settings, items, find=find, on_event=on_event, stopping=stopping)
    async with aclosing(scored):
        async for row in scored:
            rows.append(row)
            if row.is_final:
                known[row.item.identity(row.content_sha256)] = row
    heeding.cancel()
    return _Scored(rows, events, time.monotonic() - began_s)


def _broken(cause: BaseException) -> TubeletError:
    """What to say of a task that could not even begin, or that has a mistake."""
    if isinstance(cause, ImportError):
        return MachineError(
            "missing", f"a machine of the cluster lacks a package ({cause}); pip install 'tubelet[ray]'"
        )
    return InternalError("internal", f"a task failed: {type(cause).__name__}: {_line(cause)}")


def _line(exc: BaseException) -> str:
    return str(exc).strip().rpartition("\n")[2]
