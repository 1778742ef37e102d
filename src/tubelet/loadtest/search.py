"""The highest rate that keeps a promise, and the curve of latency over load around it.

From the least rate the search doubles until a rate breaks the promise, or the highest rate keeps it; then it halves the
gap between kept and broken (by their geometric mean) until it is as narrow as wanted. Servers are noisy: each rate is
decided by more than half of up to ``confirmations`` trials, fewer where the rest could not change it, and what was
decided is not tried again. Last, the curve is filled up where it has the widest gaps, one trial each.

A trial keeps the promise when every clause was kept, something was answered, and the load was on time: a generator that
is late asks less than it says. How many trials a search takes at most is known before it begins, see `most_trials`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Literal

from tubelet.loadtest.knee import find_knee
from tubelet.loadtest.measured import CurvePoint, Measurement, SearchFigures, Trial
from tubelet.loadtest.promise import error_share
from tubelet.loadtest.scenario import Search

__all__ = ["find_highest_rate", "most_trials"]

_GROWTH = 2.0
_BEYOND = 1.15
"""The curve ends so far beyond the lowest rate that breaks the promise."""
_NARROWEST_GAP = 0.01
"""Of the curve, as a share of its end: points nearer to each other tell nothing new."""


class _InterruptedError(Exception):
    """The person who waits wants to see what there is."""


async def find_highest_rate(
    search: Search,
    *,
    try_rate: Callable[[float], Awaitable[Measurement]],
    on_trial: Callable[[Trial], None] | None = None,
) -> SearchFigures:
    """Looks for it.

    Args:
        search: the range and how closely to look.
        try_rate: loads the server with so many requests a second, the promise judged. One that was interrupted ends
            the search with what it has, and is not counted.
        on_trial: hears of every trial.

    Returns:
        Where even the least rate breaks the promise, nothing is measured for the curve: all of it would lie beyond what
        is asked.
    """
    hunt = _Hunt(search, try_rate, on_trial)
    is_decided = False
    try:
        await hunt.close_in()
        is_decided = True
        await hunt.fill_curve()
    except _InterruptedError:
        pass
    curve = _curve(hunt.trials)
    return SearchFigures(
        highest_rate=hunt.kept,
        broken_rate=hunt.broken,
        limited_by=hunt.limit() if is_decided else "interrupted",
        trials=tuple(hunt.trials),
        curve=curve,
        # p50: of a short trial, p99 rests on a handful of requests.
        knee_rate=find_knee([point.rate for point in curve], [point.p50_ms for point in curve]),
    )


def most_trials(search: Search) -> int:
    """How many trials a search takes at the very most, those of the curve among them."""
    ratio = search.most_rate / search.least_rate
    growing = 1 + math.ceil(math.log(ratio, _GROWTH))
    widest = min(ratio, _GROWTH)
    halvings = math.ceil(math.log2(max(1.0, math.log(widest) / math.log1p(search.precision)))) if ratio > 1 else 0
    return (growing + halvings) * search.confirmations + search.curve_points


@dataclass
class _Hunt:
    search: Search
    try_rate: Callable[[float], Awaitable[Measurement]]
    on_trial: Callable[[Trial], None] | None
    trials: list[Trial] = field(default_factory=list)
    kept: float | None = None
    broken: float | None = None

    async def close_in(self) -> None:
        """Finds the highest rate that keeps the promise and the lowest above it that does not."""
        rate = self.search.least_rate
        await self._decide(rate)
        while self.broken is None and rate < self.search.most_rate:
            rate = min(rate * _GROWTH, self.search.most_rate)
            await self._decide(rate)
        while self.kept and self.broken and self.broken / self.kept - 1 > self.search.precision:
            await self._decide(math.sqrt(self.kept * self.broken))

    async def fill_curve(self) -> None:
        """Measures further rates, where those that were tried lie furthest apart."""
        if self.kept is None:
            return
        end = min(self.search.most_rate, _BEYOND * (self.broken or self.search.most_rate))
        for rate in _further_rates({trial.rate for trial in self.trials}, end, self.search.curve_points):
            await self._trial(rate)

    def limit(self) -> Literal["promise", "range", "generator"]:
        """What keeps the rate from being higher."""
        if self.broken is None:
            return "range"
        on_time = sum(not trial.kept and trial.is_on_time for trial in self.trials if trial.rate == self.broken)
        return "promise" if on_time >= self._enough_broken else "generator"

    @property
    def _enough_kept(self) -> int:
        return self.search.confirmations // 2 + 1

    @property
    def _enough_broken(self) -> int:
        return self.search.confirmations - self._enough_kept + 1

    async def _decide(self, rate: float) -> None:
        verdicts: list[bool] = []
        while verdicts.count(True) < self._enough_kept and verdicts.count(False) < self._enough_broken:
            verdicts.append((await self._trial(rate)).kept)
        if verdicts.count(True) >= self._enough_kept:
            self.kept = rate
        else:
            self.broken = rate

    async def _trial(self, rate: float) -> Trial:
        measurement = await self.try_rate(rate)
        if measurement.stopped_by == "interrupted":
            raise _InterruptedError
        together, is_on_time = measurement.together, measurement.generator.is_on_time
        is_promise_kept = together.answered > 0 and all(clause.kept for clause in measurement.promised)
        trial = Trial(
            rate=rate,
            answered_rate=measurement.rate,
            p50_ms=together.latency.p50_ms,
            p99_ms=together.latency.p99_ms,
            error_share=error_share([together]),
            kept=is_promise_kept and is_on_time,
            is_on_time=is_on_time,
        )
        self.trials.append(trial)
        if self.on_trial is not None:
            self.on_trial(trial)
        return trial


def _further_rates(tried: set[float], end: float, number: int) -> list[float]:
    """Rates up to ``end``, rising, each in the middle of what was then the widest gap; fewer where none is wide."""
    rates = sorted({rate for rate in tried if rate <= end} | {end})
    further = {end} - tried
    while len(further) < number:
        low, high = max(pairwise(rates), key=lambda gap: gap[1] - gap[0], default=(end, end))
        if high - low <= _NARROWEST_GAP * end:
            break
        further.add((low + high) / 2)
        rates = sorted({*rates, *further})
    return sorted(further)[:number]


def _curve(trials: list[Trial]) -> tuple[CurvePoint, ...]:
    by_rate: dict[float, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.rate):
        by_rate.setdefault(trial.rate, []).append(trial)
    return tuple(
        CurvePoint(
            rate=rate,
            answered_rate=median(trial.answered_rate for trial in group),
            p50_ms=median(trial.p50_ms for trial in group),
            p99_ms=median(trial.p99_ms for trial in group),
            error_share=median(trial.error_share for trial in group),
            kept=2 * sum(trial.kept for trial in group) > len(group),
        )
        for rate, group in by_rate.items()
    )
