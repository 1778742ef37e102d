"""What changed from one result to another beyond noise, and whether that is a regression.

The noise is that within each run: its twenty blocks of time are drawn anew a thousand times (`tubelet.loadtest.noise`),
each run's by itself, and the middle 95 % of the differences between such draws are what chance could have made of two
runs like these. Differences whose interval does not hold 0 are *changed*; by chance, one in twenty is.

What this cannot see is whatever was constant during one run and other in the next: another load on the machine, its
clock, a file cache that was cold. So run A, B, A and B again, and believe what both pairs say.

A *regression* is changed, worse, and worse by more than the threshold: relative to A for latencies and rates. Errors
are judged by their share, which must grow by more than a tenth of a point and by more than the threshold relative to
A's. As one figure in twenty changes by chance, and a single one decides, a regression must be clearer: of m figures the
middle 1 - 0.05 / m must not hold 0 (Bonferroni's correction, as far as a thousand draws can tell).

Of a search's highest rate the search's precision is the noise; its trials say nothing else about it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from tubelet.loadtest.circumstances import describe_circumstances
from tubelet.loadtest.compared import (
    ComparedFigure,
    ComparedKind,
    ComparedResult,
    ComparedStep,
    Comparison,
    FigureName,
    Unit,
)
from tubelet.loadtest.measured import KindFigures, Measurement, Result
from tubelet.loadtest.noise import draw_blocks, interval, resample
from tubelet.loadtest.promise import error_share
from tubelet.loadtest.scenario import Scenario
from tubelet.spec.errors import InvalidRequestError

__all__ = ["compare_results"]

_LEAST_ERRORS = 0.001
"""Of the share of errors: what it grows by is no regression up to here."""
_SAME_LOAD = 0.001
_LATENCIES: dict[FigureName, str] = {"p50": "p50_ms", "p90": "p90_ms", "p99": "p99_ms", "mean": "mean_ms"}
_UNITS: dict[FigureName, Unit] = {**dict.fromkeys(_LATENCIES, "ms"), "errors": "%", "rate": "/s"}

_Interval = tuple[float, float] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    """What makes a regression."""

    threshold: float | None
    """None: nothing is judged."""
    num_figures: int
    """That are judged together."""

    @property
    def level(self) -> float:
        return 1 - 0.05 / self.num_figures

    def most(self, a: float, *, is_share: bool) -> float:
        """What B may be worse by."""
        if self.threshold is None:
            return math.inf
        return max(_LEAST_ERRORS, self.threshold * a) if is_share else self.threshold


def compare_results(a: Result, b: Result, *, threshold: float) -> Comparison:
    """Compares two results of the same scenario; address, name and description may be others.

    Args:
        a: before.
        b: after.
        threshold: by how much B may be worse, as a share: 0.1 is a tenth.

    Raises:
        InvalidRequestError: ``bad_input``, the scenarios differ, or one of the results has no answer.
    """
    _check(a, b)
    is_same_load = _is_same_load(a, b)
    return Comparison(
        schema_version=1,
        threshold=threshold,
        a=_described(a),
        b=_described(b),
        notes=tuple(describe_circumstances(a, b, is_same_load=is_same_load)),
        kinds=tuple(_kinds(a.measurement, b.measurement, threshold if is_same_load else None)),
        is_same_load=is_same_load,
        highest_rate=_highest_rate(a, b, threshold),
        steps=tuple(_steps(a.measurement, b.measurement)),
    )


def _check(a: Result, b: Result) -> None:
    one, other = _comparable(a.scenario), _comparable(b.scenario)
    if one.digest != other.digest:
        differing = [field.name for field in fields(Scenario) if getattr(one, field.name) != getattr(other, field.name)]
        raise InvalidRequestError(
            "bad_input",
            f"results of the same scenario are expected; {a.scenario.name} and {b.scenario.name} differ in "
            f"{', '.join(differing)}",
        )
    for which, result in (("A", a), ("B", b)):
        if not result.measurement.together.answered:
            raise InvalidRequestError("bad_input", f"{which} has no answer at all, so that nothing can be compared")


def _comparable(scenario: Scenario) -> Scenario:
    return replace(scenario, name="", description="", url="", metrics_url=None)


def _is_same_load(a: Result, b: Result) -> bool:
    """Without a search, or where it found no rate, the load is the scenario's own."""
    one, other = (result.search.highest_rate if result.search else None for result in (a, b))
    return one is other if one is None or other is None else abs(other / one - 1) <= _SAME_LOAD


def _described(result: Result) -> ComparedResult:
    return ComparedResult(
        scenario=result.scenario.name,
        url=result.scenario.url,
        began_s=result.measurement.began_s,
        tubelet_version=result.tubelet_version,
        command=result.command,
        processor=result.machine.processor,
        offered_rate=result.measurement.offered_rate,
    )


def _kinds(a: Measurement, b: Measurement, threshold: float | None) -> Iterator[ComparedKind]:
    """``threshold`` None: nothing is judged."""
    others = {kind.name: kind for kind in b.kinds}
    pairs = [(a.together, b.together)]
    if len(a.kinds) > 1:
        pairs += [(kind, others[kind.name]) for kind in a.kinds if kind.name in others]
    rule = _Rule(threshold=threshold, num_figures=len(pairs) * len(_UNITS))
    for one, other in pairs:
        yield ComparedKind(name=one.name, figures=tuple(_figures((one, a.duration_s), (other, b.duration_s), rule)))


def _figures(a: tuple[KindFigures, float], b: tuple[KindFigures, float], rule: _Rule) -> Iterator[ComparedFigure]:
    """Of one kind, with the seconds that it was measured."""
    found, samples = [_values(*run) for run in (a, b)], [_samples(*run, seed) for seed, run in enumerate((a, b))]
    for name, unit in _UNITS.items():
        if all(name in values for values in found):
            drawn = np.empty(0)
            if all(name in one for one in samples):
                drawn = _difference(name, samples[0][name], samples[1][name])
            noise = interval(drawn), interval(drawn, level=rule.level)
            yield _compared(name, unit, (found[0][name], found[1][name]), noise, rule)


def _values(kind: KindFigures, duration_s: float) -> dict[FigureName, float]:
    """Latencies only where there are any; shares from 0 to 1."""
    latencies = {name: getattr(kind.latency, field) for name, field in _LATENCIES.items()} if kind.answered else {}
    return {**latencies, "errors": error_share([kind]), "rate": kind.answered / duration_s}


def _samples(kind: KindFigures, duration_s: float, seed: int) -> dict[FigureName, NDArray[np.float64]]:
    if len(kind.blocks) < 2:  # a single block varies with nothing
        return {}
    return resample(kind.blocks, draw_blocks(len(kind.blocks), seed=seed), duration_s=duration_s)


def _difference(name: FigureName, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    if name == "errors":
        return b - a
    with np.errstate(divide="ignore", invalid="ignore"):
        return b / a - 1


def _compared(
    name: FigureName,
    unit: Unit,
    values: tuple[float, float],
    noise: tuple[_Interval, _Interval],
    rule: _Rule,
) -> ComparedFigure:
    """``noise``: of one figure alone, and of one among all that are judged."""
    a, b = values
    is_share = name == "errors"
    difference = b - a if is_share else b / a - 1 if a else None
    usual, wide = (_around(difference, one) for one in noise)
    is_worse = a > b if unit == "/s" else b > a
    return ComparedFigure(
        name=name,
        unit=unit,
        a=100 * a if is_share else a,
        b=100 * b if is_share else b,
        difference=difference,
        low=usual and usual[0],
        high=usual and usual[1],
        is_changed=_excludes_0(usual),
        is_worse=is_worse,
        is_regression=is_worse and _excludes_0(wide) and abs(difference or 0) > rule.most(a, is_share=is_share),
    )


def _around(difference: float | None, noise: _Interval) -> _Interval:
    """Chance must at least allow what was found."""
    if difference is None or noise is None:
        return None
    return min(noise[0], difference), max(noise[1], difference)


def _excludes_0(noise: _Interval) -> bool:
    return noise is not None and (noise[0] > 0 or noise[1] < 0)


def _highest_rate(a: Result, b: Result, threshold: float) -> ComparedFigure | None:
    if a.search is None or b.search is None or a.scenario.search is None:
        return None
    one, other = a.search.highest_rate or 0.0, b.search.highest_rate or 0.0
    if not one and not other:
        return None
    # Each lies up to one precision above what was found; both searches are the same scenario's.
    above = 1 + a.scenario.search.precision
    noise = (other / (one * above) - 1, other * above / one - 1) if one else None
    rule = _Rule(threshold=threshold, num_figures=1)
    return _compared("highest rate", "/s", (one, other), (noise, noise), rule)


def _steps(a: Measurement, b: Measurement) -> Iterator[ComparedStep]:
    ours, others = ({step.name: step for step in run.server.steps} if run.server else {} for run in (a, b))
    for name in dict.fromkeys([*ours, *others]):
        one, other = ours.get(name), others.get(name)
        yield ComparedStep(
            name=name,
            is_public=any(step.is_public for step in (one, other) if step is not None),
            queue_a_ms=one.queue_ms if one else None,
            queue_b_ms=other.queue_ms if other else None,
            compute_a_ms=one.compute_ms if one else None,
            compute_b_ms=other.compute_ms if other else None,
        )
