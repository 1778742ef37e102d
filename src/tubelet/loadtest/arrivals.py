"""When requests of an open loop are due, whatever the server does.

One picture serves all rates: a curve counts the requests that should have come by each moment, and an arrival lies
where the curve passes a count. Even counts make even arrivals; counts that are apart by exponentially distributed
amounts make a Poisson process, also where the rate changes (time rescaling, see Daley and Vere-Jones, *An Introduction
to the Theory of Point Processes*, 7.4).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, count, repeat
from pathlib import Path
from random import Random

from tubelet.loadtest.scenario import Bursts, Spacing, Steady, Steps, Trace
from tubelet.spec.errors import ScenarioError

__all__ = ["OpenLoop", "due_times", "mean_rate"]

OpenLoop = Steady | Steps | Bursts | Trace

_Stage = tuple[float, float, float]
"""Seconds, requests a second at the beginning, requests a second at the end."""


def due_times(arrivals: OpenLoop, *, scale: float, random: Random, folder: Path) -> Iterator[float]:
    """Moments at which requests are due, in seconds since the stream began; they never go back.

    An equally seeded ``random`` gives the same moments again, so that two servers can be asked exactly the same.
    Another ``scale`` keeps the stages of `Steps` as long as they are; it squeezes bursts and traces in time.

    Args:
        arrivals: as the scenario has it.
        scale: multiplies the rate.
        random: of this stream alone; used by Poisson arrivals.
        folder: the scenario's.

    Returns:
        Endless, but of a `Trace`, which ends with its file.

    Raises:
        ScenarioError: ``bad_scenario``, the trace cannot be read; raised at once, not by the iterator.
    """
    match arrivals:
        case Steady():
            return (at / arrivals.rate for at in _counts(arrivals.spacing, scale, random))
        case Steps():
            return _by_stages(arrivals.stages, _counts(arrivals.spacing, scale, random))
        case Bursts():
            return (number * arrivals.every_s / scale for number in count() for _ in range(arrivals.size))
        case Trace():
            return (moment / (arrivals.speed * scale) for moment in _read_trace(folder / arrivals.file))


def mean_rate(arrivals: OpenLoop, *, folder: Path) -> float:
    """Requests a second in the long run, with a scale of 1.

    Args:
        arrivals: as the scenario has it.
        folder: the scenario's.

    Raises:
        ScenarioError: ``bad_scenario``, the trace cannot be read.
    """
    match arrivals:
        case Steady():
            return arrivals.rate
        case Steps():
            return sum(map(_requests_in, arrivals.stages)) / sum(seconds for seconds, _, _ in arrivals.stages)
        case Bursts():
            return arrivals.size / arrivals.every_s
        case Trace():
            moments = _read_trace(folder / arrivals.file)
            return len(moments) / moments[-1] * arrivals.speed


def _counts(spacing: Spacing, scale: float, random: Random) -> Iterator[float]:
    """Where on the curve arrivals lie: evenly from 0 on, or apart by exponentially distributed amounts."""
    if spacing == "constant":
        return (number / scale for number in count())
    return accumulate(random.expovariate(scale) for _ in repeat(None))


def _by_stages(stages: Sequence[_Stage], counts: Iterator[float]) -> Iterator[float]:
    """When the curve of these stages, one after the other and again, passes ``counts``, which do not fall."""
    counts_after = list(accumulate(map(_requests_in, stages)))
    times_after = list(accumulate(seconds for seconds, _, _ in stages))
    latest = 0.0
    for at in counts:
        turn, at_in_turn = divmod(at, counts_after[-1])
        index = bisect_right(counts_after, at_in_turn)
        count_before, time_before = (counts_after[index - 1], times_after[index - 1]) if index else (0.0, 0.0)
        due = turn * times_after[-1] + time_before + _seconds_into(stages[index], at_in_turn - count_before)
        latest = max(latest, due)  # rounding may not send it back
        yield latest


def _requests_in(stage: _Stage) -> float:
    """Requests in a stage."""
    seconds, first, last = stage
    return seconds * (first + last) / 2


def _seconds_into(stage: _Stage, wanted: float) -> float:
    """When a stage has had so many requests.

    The root of ``first * t + (last - first) / (2 * seconds) * t**2 = wanted`` in the form that loses no digits for flat
    and for falling rates.
    """
    seconds, first, last = stage
    rate_then = math.sqrt(max(0.0, first * first + 2 * (last - first) / seconds * wanted))
    rates = first + rate_then
    return min(seconds, 2 * wanted / rates) if rates else 0.0


def _read_trace(path: Path) -> list[float]:
    """The seconds in a file, one number a line; empty lines, and what stands behind a ``#``, do not count."""
    moments: list[float] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if text := line.partition("#")[0].strip():
                    moments.append(_moment(text, after=moments[-1] if moments else 0.0, where=f"{path}, line {number}"))
    except OSError as exc:
        raise ScenarioError("bad_scenario", f"cannot read the trace {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise ScenarioError("bad_scenario", f"the trace {path} must be text with a number in each line") from exc
    if not moments or not moments[-1]:
        raise ScenarioError("bad_scenario", f"the trace {path} must hold moments after 0 s, got {len(moments)} moments")
    return moments


def _moment(text: str, *, after: float, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < after:
        raise ScenarioError(
            "bad_scenario", f"{where}: expected a finite number of seconds, {after:g} or more, got {text[:40]!r}"
        )
    return seconds
