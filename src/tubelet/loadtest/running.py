"""Runs a load once and measures it: warm-up, the measured time without a gap between, and the wait for the rest."""

from __future__ import annotations

import asyncio
import select
import selectors
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal, Protocol

from tubelet.loadtest.arrivals import due_times
from tubelet.loadtest.load import Asks, Load
from tubelet.loadtest.loops import ask_again_and_again, send_when_due
from tubelet.loadtest.measured import GeneratorFigures, Latency, Measurement, ServerFigures, StopReason
from tubelet.loadtest.mixture import kinds_at_random
from tubelet.loadtest.promise import judge, parse_promise
from tubelet.loadtest.scenario import Closed, Scenario, Stream
from tubelet.loadtest.summing import errors_of, figures_of, figures_together, lag_of, rates_of, series_of

__all__ = ["Progress", "Watch", "event_loop", "measure"]

_TICK_S = 1.0
_LATE_MS = 10.0
_LATE_SHARE = 0.1


class Watch(Protocol):
    """What looks at the server meanwhile, such as `tubelet.loadtest.watching.ServerWatch`."""

    async def open(self) -> None:
        """Called at the beginning of the warm-up, for what takes a while."""

    async def begin(self) -> None:
        """Called at the beginning of the measured time."""

    async def sample(self) -> None:
        """Called about once a second after it."""

    async def end(self) -> ServerFigures | None:
        """Called after the last answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a measurement is; as text, one line."""

    phase: Literal["warm-up", "load", "last answers"]
    seconds: float
    """Of this phase."""
    of_seconds: float
    """How long it lasts at most; the last answers: their deadline."""
    due: int
    """Requests of the measured time so far, here and below."""
    answered: int
    errors: int
    in_flight: int
    """Now, those of the warm-up included."""
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return (
            f"{self.phase} {self.seconds:.0f} of {self.of_seconds:.0f} s: {self.due} due, {self.answered} answered, "
            f"{self.errors} errors, {self.in_flight} in flight, p50 {self.p50_ms:.0f} ms, p99 {self.p99_ms:.0f} ms"
        )


class _ExactSelector(selectors.EpollSelector):
    """Epoll waits in whole milliseconds, which latencies would have too much; select, on epoll's own file, does not."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select((self.fileno(),), (), (), timeout)
            timeout = 0
        return super().select(timeout)


def event_loop() -> asyncio.AbstractEventLoop:
    """An event loop for a load: `asyncio.Runner` takes it as ``loop_factory``."""
    return asyncio.SelectorEventLoop(_ExactSelector())


async def measure(
    scenario: Scenario,
    sender: Asks,
    *,
    folder: Path,
    scale: float = 1.0,
    watch: Watch | None,
    stop: asyncio.Event,
    on_tick: Callable[[Progress], None] | None = None,
) -> Measurement:
    """Loads a server once. No error of a request ends it.

    Args:
        scenario: what to do; its search is not looked at.
        sender: sends the requests; prepared.
        folder: the scenario's, for traces.
        scale: multiplies the rates of open loops.
        watch: looks at the server; None: nobody does.
        stop: ends it at once, with what it has.
        on_tick: hears about once a second how far it is.

    Raises:
        ScenarioError: ``bad_scenario``, a trace or the promise cannot be read.
    """
    run = _Run(scenario=scenario, sender=sender, folder=folder, scale=scale, watch=watch, stop=stop, on_tick=on_tick)
    return await run.measure()


@dataclass(kw_only=True, eq=False)
class _Run:
    scenario: Scenario
    sender: Asks
    folder: Path
    scale: float
    watch: Watch | None
    stop: asyncio.Event
    on_tick: Callable[[Progress], None] | None

    def __post_init__(self) -> None:
        self._clauses = parse_promise(self.scenario.promise or "")
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._measured_from = self._began + self.scenario.warm_up_s
        self._measured_to = self._measured_from + self.scenario.duration_s
        self._stopped_by: StopReason = "duration"
        self._streams: list[asyncio.Task[None]] = []
        self._is_done = asyncio.Event()
        self._mark()

    async def measure(self) -> Measurement:
        mark = asyncio.get_running_loop().call_at(self._measured_from, self._mark)
        try:
            async with asyncio.TaskGroup() as group:
                self._load = self._new_load(group)
                for stream in self.scenario.streams:
                    self._streams += [group.create_task(sends) for sends in self._sends(stream)]
                others = [group.create_task(self._heed_stop()), group.create_task(self._tell())]
                watched = group.create_task(self._look_at_server())
                await asyncio.wait(self._streams)
                duration_s = min(max(0.0, self._clock() - self._measured_from), self.scenario.duration_s)
                cpu_s = time.process_time() - self._cpu_s
                self._load.end()
                await self._load.drained()
                self._is_done.set()
                for task in others:
                    task.cancel()
        except BaseExceptionGroup as exc:
            raise exc.exceptions[0] from None  # the others were cancelled for it
        finally:
            mark.cancel()
        return self._measurement(duration_s, cpu_s, watched.result())

    def _new_load(self, group: asyncio.TaskGroup) -> Load:
        return Load(
            self.sender,
            [kind for _, kind in self.scenario.kinds],
            group=group,
            measured_from=self._measured_from,
            most_requests=self.scenario.most_requests,
            most_in_flight=self.scenario.most_in_flight,
            on_full=lambda: self._end("count"),
        )

    def _sends(self, stream: Stream) -> list[Coroutine[Any, Any, None]]:
        arrivals, ends = stream.arrivals, self._measured_to
        kinds = kinds_at_random(stream, Random(f"{self.scenario.seed} {stream.name} kinds"))
        if isinstance(arrivals, Closed):
            return [
                ask_again_and_again(kinds, self._load.send_closed, pause_s=arrivals.pause_s, ends=ends)
                for _ in range(arrivals.callers)
            ]
        random = Random(f"{self.scenario.seed} {stream.name} arrivals")
        times = due_times(arrivals, scale=self.scale, random=random, folder=self.folder)
        dues = ((self._began + due_s, kind) for due_s, kind in zip(times, kinds, strict=False))
        return [send_when_due(dues, self._load.send_open, ends=ends)]

    def _mark(self) -> None:
        """The measured time begins."""
        self._began_s, self._cpu_s = time.time(), time.process_time()

    def _end(self, reason: StopReason) -> None:
        self._stopped_by = reason
        for stream in self._streams:
            stream.cancel()

    async def _heed_stop(self) -> None:
        await self.stop.wait()
        self._end("interrupted")
        self._load.cut_off()

    async def _tell(self) -> None:
        while await self._goes_on_until(self._clock() + _TICK_S):
            if self.on_tick is not None:
                self.on_tick(self._progress())

    async def _look_at_server(self) -> ServerFigures | None:
        if self.watch is None:
            return None
        await self.watch.open()
        if not await self._goes_on_until(self._measured_from):
            await self.watch.end()
            return None
        await self.watch.begin()
        while await self._goes_on_until(self._clock() + _TICK_S):
            await self.watch.sample()
        return await self.watch.end()

    async def _goes_on_until(self, moment: float) -> bool:
        """Waits for a moment; False: there is nothing to wait for any more."""
        try:
            async with asyncio.timeout_at(moment):
                await self._is_done.wait()
        except TimeoutError:
            return True
        return False

    def _progress(self) -> Progress:
        now, recorder = self._clock(), self._load.recorder
        phase: Literal["warm-up", "load", "last answers"]
        if self._load.is_over:
            deadline_s = max(stream.deadline_s for stream in self.scenario.streams)
            phase, since, of_seconds = "last answers", self._measured_to, deadline_s
        elif now < self._measured_from:
            phase, since, of_seconds = "warm-up", self._began, self.scenario.warm_up_s
        else:
            phase, since, of_seconds = "load", self._measured_from, self.scenario.duration_s
        found = recorder.latency.get_percentile_to_value_dict([50, 99]) if recorder.num_answered else {}
        return Progress(
            phase=phase,
            seconds=now - since,
            of_seconds=of_seconds,
            due=self._load.num_due,
            answered=recorder.num_answered,
            errors=recorder.num_failed,
            in_flight=self._load.in_flight,
            p50_ms=found.get(50, 0) / 1000,
            p99_ms=found.get(99, 0) / 1000,
        )

    def _measurement(self, duration_s: float, cpu_s: float, server: ServerFigures | None) -> Measurement:
        records, kinds = self._load.recorder.records(), self.scenario.kinds
        together = figures_together(records, kinds, duration_s=duration_s)
        rate, views_rate, units_rate = rates_of(records, duration_s=duration_s)
        lag = lag_of(records)
        measurement = Measurement(
            began_s=self._began_s,
            duration_s=duration_s,
            stopped_by=self._stopped_by,
            offered_rate=together.requests / duration_s if duration_s else 0.0,
            rate=rate,
            views_rate=views_rate,
            units_rate=units_rate,
            warm_up_errors=errors_of(records[records.due_s < 0]),
            together=together,
            kinds=figures_of(records, kinds, duration_s=duration_s),
            series=series_of(records, duration_s=duration_s),
            server=server,
            generator=GeneratorFigures(
                lag=lag,
                cpu_cores=cpu_s / duration_s if duration_s else 0.0,
                is_on_time=_is_on_time(lag, together.latency),
            ),
            promised=(),
        )
        return replace(measurement, promised=judge(self._clauses, measurement))


def _is_on_time(lag: Latency, latency: Latency) -> bool:
    return lag.p99_ms < max(_LATE_MS, _LATE_SHARE * latency.p50_ms)
