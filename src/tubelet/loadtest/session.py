"""A load test from its scenario to its result: videos, server, measurement, and the search where one is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tubelet import __version__
from tubelet.clients import Tls
from tubelet.clients.settings import Headers
from tubelet.loadtest.arrivals import mean_rate
from tubelet.loadtest.machine import describe_machine
from tubelet.loadtest.measured import Measurement, Result, SearchFigures, Trial
from tubelet.loadtest.promise import check_names, parse_promise
from tubelet.loadtest.running import Progress, measure
from tubelet.loadtest.scenario import Closed, Scenario
from tubelet.loadtest.search import find_highest_rate
from tubelet.loadtest.sending import Sender
from tubelet.loadtest.videos import gather_videos
from tubelet.loadtest.watching import ServerWatch
from tubelet.spec.errors import ScenarioError

__all__ = ["Session"]

_PAUSE_S = 1.0
"""Between two trials of a search: the server may end what it still has."""


@dataclass(kw_only=True)
class Session:
    """One load test.

    Raises:
        ScenarioError: ``bad_scenario``, a search is wanted that the scenario does not describe.
    """

    scenario: Scenario
    folder: Path
    """The scenario's: what it names lies beside it."""
    command: str = ""
    """As it was typed; stands in the result."""
    with_search: bool = False
    headers: Headers | None = None
    tls: Tls | None = None
    on_tick: Callable[[Progress], None] | None = None
    """Hears once a second how far a measurement is."""
    on_trial: Callable[[Trial], None] | None = None
    """Hears of every trial of a search."""

    def __post_init__(self) -> None:
        self._stop = asyncio.Event()
        self._last: Measurement | None = None
        self._open_rate = sum(
            mean_rate(stream.arrivals, folder=self.folder)
            for stream in self.scenario.streams
            if not isinstance(stream.arrivals, Closed)
        )
        # What is wrong with it is said before the load, not after.
        check_names(parse_promise(self.scenario.promise or ""), self.scenario)
        if self.with_search and not (self.scenario.search and self.scenario.promise and self._open_rate):
            raise ScenarioError(
                "bad_scenario", "a search needs [search], a promise, and a stream whose arrivals are not closed"
            )

    def stop(self) -> None:
        """Ends the test soon; what was measured until then is its result."""
        self._stop.set()

    async def run(self) -> Result:
        """Runs it.

        Raises:
            ScenarioError: ``bad_scenario``: videos, models or protocols that are not there.
            TubeletError: the server cannot be asked about its models.
        """
        scenario = self.scenario
        videos = await asyncio.to_thread(gather_videos, scenario.videos, folder=self.folder, seed=scenario.seed)
        async with Sender(scenario, videos, headers=self.headers, tls=self.tls) as sender:
            await sender.prepare()
            found = await self._search(sender) if self.with_search else None
            scale = 1.0 if found is None else (found.highest_rate or 0.0) / self._open_rate or 1.0
            measurement = self._last if self._last is not None and self._stop.is_set() else None
            if measurement is None:
                measurement = await self._measure(sender, scenario, scale)
            return Result(
                schema_version=1,
                tubelet_version=__version__,
                scenario=scenario,
                scenario_digest=scenario.digest,
                command=self.command,
                machine=describe_machine(),
                contracts=sender.contracts,
                measurement=measurement,
                search=found,
            )

    async def _search(self, sender: Sender) -> SearchFigures:
        search = self.scenario.search
        assert search is not None  # noqa: S101  see __post_init__
        trial = replace(self.scenario, duration_s=search.trial_s)

        async def try_rate(rate: float) -> Measurement:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _PAUSE_S)
            return await self._measure(sender, trial, rate / self._open_rate)

        return await find_highest_rate(search, try_rate=try_rate, on_trial=self.on_trial)

    async def _measure(self, sender: Sender, scenario: Scenario, scale: float) -> Measurement:
        models = sorted({kind.model for _, kind in scenario.kinds})
        async with ServerWatch(
            scenario.url, metrics_url=scenario.metrics_url, models=models, headers=self.headers, tls=self.tls
        ) as watch:
            self._last = await measure(
                scenario,
                sender,
                folder=self.folder,
                scale=scale,
                watch=watch,
                stop=self._stop,
                on_tick=self.on_tick,
            )
        return self._last
