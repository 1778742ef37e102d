"""Watches the server while a load test asks it: what Triton counts, what its processes use, how full its queues are.

Nothing here ends a load test: what cannot be had is missing from the figures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import Any, Self, TypeVar

from tubelet.clients.address import parse_url
from tubelet.clients.settings import Headers, Timeouts, Tls
from tubelet.loadtest.gpus import GpuTally, Page, read_page
from tubelet.loadtest.measured import ServerFigures, ServerSeries
from tubelet.loadtest.processes import ProcessWatch, Usage
from tubelet.loadtest.questions import MetricsPage, Questions, open_questions
from tubelet.loadtest.samples import Samples
from tubelet.loadtest.statistics import ServedStep, Tally, read_counts, steps_behind
from tubelet.spec.errors import TubeletError

__all__ = ["ServerWatch"]

_PATIENCE_S = 2.0
"""For one question: a server that has none to spare is not asked for longer."""
_PAUSE_S = 0.2
_APART_S = 0.5
"""The system counts processor time in hundredths of a second: over less, a share of it means nothing."""
_MIB = 2**20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Moment:
    at_s: float
    usage: Usage
    queued: int

    def merged(self, later: _Moment) -> _Moment:
        """One of two; short peaks stay."""
        memory = max(self.usage.memory_bytes, later.usage.memory_bytes)
        return _Moment(later.at_s, Usage(later.usage.cpu_s, memory), max(self.queued, later.queued))


class ServerWatch:
    """The server's side of one measurement: `open`, `begin`, `sample` about once a second, `end`, in one event loop.

    It is a context manager, which closes its connections however the measurement ends.

    Args:
        url: the server, as the clients take it. Its processes are watched where it is an address of this machine.
        metrics_url: Triton's metrics, for cards and queues; None: without.
        models: public names.
        headers: sent to ``url`` with every question.
        tls: certificates; None: those that this system trusts.

    Raises:
        InvalidRequestError: ``bad_parameter``, ``url`` is no address, or the certificates cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        metrics_url: str | None,
        models: Sequence[str],
        headers: Headers | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._address = parse_url(url)
        self._models = list(models)
        timeouts = Timeouts(connect_s=_PATIENCE_S, question_s=_PATIENCE_S)
        # gRPC and httpx want the event loop that they will be used in.
        self._connect = partial(open_questions, self._address, timeouts=timeouts, headers=headers, tls=tls)
        self._page = None if metrics_url is None else MetricsPage(metrics_url, timeout_s=_PATIENCE_S, tls=tls)
        is_here = self._address.is_loopback
        self._processes = ProcessWatch(self._address.host, self._address.port) if is_here else None
        self._questions: Questions | None = None
        self._version: str | None = None
        self._configs: dict[str, Any] = {}
        self._tally, self._gpus = Tally(), GpuTally()
        self._moments = Samples(_Moment.merged)
        self._first: _Moment | None = None
        self._is_counted = False
        # Of its own: what waits in the event loop's threads cannot hold it up.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="watch")
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False)
        for connection in (self._questions, self._page):
            if connection is not None:
                await connection.close()

    async def open(self) -> None:
        """Connects and asks what is served, which takes too long for the moment at which counting begins."""
        self._questions = self._connect()
        async with self._lock:
            await asyncio.gather(self._ask_about_models(), self._read_page())

    async def begin(self) -> None:
        """Begins to count: call it right after the warm-up."""
        self._began_s = time.monotonic()
        async with self._lock:
            self._first = await self._look()

    async def sample(self) -> None:
        """Looks at the server once; not at all while it is still looked at."""
        if self._first is None or self._lock.locked():
            return
        async with self._lock:
            self._moments.add(await self._look())

    async def end(self) -> ServerFigures | None:
        """Looks a last time, and says what was found; None: the server never answered."""
        async with self._lock:
            if self._first is None:
                return None
            last = await self._look()
            await self._count_at_last()
            await self._ask_about_models()
            return await self._figures(self._first, last)

    async def _figures(self, first: _Moment, last: _Moment) -> ServerFigures | None:
        if self._version is None:
            return None
        return ServerFigures(
            version=self._version,
            steps=self._tally.figures(self._steps),
            processes=() if self._processes is None else await self._in_thread(self._processes.figures),
            gpus=self._gpus.figures,
            series=self._series(first, last),
            restarts=self._tally.restarts,
        )

    async def _look(self) -> _Moment:
        at_s = time.monotonic() - self._began_s
        usage, page, _ = await asyncio.gather(self._use(), self._read_page(), self._count())
        if page is not None:
            self._gpus.take(page)
        inner = [step.name for step in self._steps if not step.is_public]
        return _Moment(at_s, usage, -1 if page is None else page.queued(inner))

    async def _use(self) -> Usage:
        return Usage() if self._processes is None else await self._in_thread(self._processes.sample)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _count(self) -> None:
        answer = None if self._questions is None else await _had(self._questions.statistics())
        self._is_counted = answer is not None
        if answer is not None:
            self._tally.take(read_counts(answer))

    async def _count_at_last(self) -> None:
        """Tries for a while: gRPC looks for a server that was away once in `_PATIENCE_S`, and fails until then."""
        by_s = time.monotonic() + 2 * _PATIENCE_S
        while self._version is not None and not self._is_counted and time.monotonic() < by_s:
            await asyncio.sleep(_PAUSE_S)
            await self._count()

    async def _read_page(self) -> Page | None:
        text = None if self._page is None else await _had(self._page.text())
        try:
            return None if text is None else read_page(text)
        except ValueError:
            return None

    async def _ask_about_models(self) -> None:
        """Asks what is not known yet: what the server and its models are."""
        if self._questions is None:
            return
        self._version = self._version or await _had(self._questions.version())
        if self._version is None:
            return  # it would let us wait for every model in turn
        for model in self._models:
            if model not in self._configs and (config := await _had(self._questions.model_config(model))) is not None:
                self._configs[model] = config

    @property
    def _steps(self) -> tuple[ServedStep, ...]:
        return steps_behind(self._configs[model] for model in self._models if model in self._configs)

    def _series(self, first: _Moment, last: _Moment) -> ServerSeries:
        moments = self._moments.all
        if moments and last.at_s - moments[-1].at_s < _APART_S:
            last = moments.pop().merged(last)
        moments.append(last)
        used = [
            (later.usage.cpu_s - before.usage.cpu_s) / max(later.at_s - before.at_s, 1e-6)
            for before, later in pairwise([first, *moments])
        ]
        return ServerSeries(
            at_s=tuple(moment.at_s for moment in moments),
            cpu_cores=tuple(used),
            memory_mib=tuple(moment.usage.memory_bytes / _MIB for moment in moments),
            queued=tuple(moment.queued for moment in moments),
        )


async def _had(question: Awaitable[T]) -> T | None:
    """The answer; None: there is none in time."""
    try:
        # httpx bounds each wait for a piece of an answer, and not all of them together.
        async with asyncio.timeout(_PATIENCE_S):
            return await question
    except (TubeletError, TimeoutError):
        return None
