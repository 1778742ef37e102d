"""The report of a load test or of a comparison: one HTML file without scripts, which asks no network for anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment

from tubelet.loadtest.changes import describe_outcome, list_changes
from tubelet.loadtest.compared import Comparison
from tubelet.loadtest.described import describe_arrivals, describe_videos
from tubelet.loadtest.figures import LINES, draw_changes, draw_curve, draw_distribution, draw_steps
from tubelet.loadtest.measured import KindFigures, Measurement, Result, StepFigures
from tubelet.loadtest.promise import error_share
from tubelet.loadtest.quantities import (
    NOTHING,
    counted,
    describe_codes,
    describe_share,
    describe_time_ms,
    formed_batches,
    number,
    time_or_none,
)
from tubelet.loadtest.timelines import draw_timeline
from tubelet.loadtest.verdict import describe_cautions, describe_clause, describe_notes, describe_verdict
from tubelet.pages.page import page_environment, render

__all__ = ["render_comparison", "render_report"]

_MOST_SLOW = 8
"""Bins in the table of the slowest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slow:
    """A bin of the series with a long latency."""

    at_s: float
    due: int
    answered: int
    in_flight: int
    max_ms: float


def render_report(result: Result) -> str:
    """The page that shows a result. Equal results give equal pages.

    Every name in it, of models, videos and error codes, is shown as it is and never read as HTML.

    Raises:
        InvalidRequestError: ``bad_input``, a histogram of the result is none.
    """
    measurement = result.measurement
    server = measurement.server
    return _render(
        "loadtest.html.j2",
        it=result,
        measurement=measurement,
        server=server,
        sentence=describe_verdict(result),
        cautions=describe_cautions(result),
        notes=describe_notes(result),
        kinds=_kinds(measurement),
        distribution=draw_distribution(_drawn_kinds(measurement)),
        timeline=draw_timeline(measurement),
        slowest=_slowest(measurement),
        curve=None if result.search is None else draw_curve(result.search),
        steps=None if server is None else draw_steps(_drawn_steps(server.steps)),
        processes=[] if server is None else sorted(server.processes, key=lambda one: -one.cpu_cores),
    )


def render_comparison(comparison: Comparison) -> str:
    """The page that shows a comparison; as `render_report`."""
    changes = list_changes(comparison)
    return _render(
        "comparison.html.j2",
        it=comparison,
        outcome=describe_outcome(comparison),
        changes=changes,
        picture=draw_changes(changes, threshold=comparison.threshold),
    )


def _kinds(measurement: Measurement) -> list[KindFigures]:
    """For tables: all together last, unless it is the same as the only one."""
    return [*measurement.kinds, measurement.together] if len(measurement.kinds) != 1 else list(measurement.kinds)


def _drawn_kinds(measurement: Measurement) -> Sequence[KindFigures]:
    return measurement.kinds if 0 < len(measurement.kinds) <= len(LINES) else [measurement.together]


def _drawn_steps(steps: Sequence[StepFigures]) -> Sequence[StepFigures]:
    """The steps; the public names, whose time is that of their steps, only where nothing else is known."""
    return [step for step in steps if not step.is_public] or steps


def _slowest(measurement: Measurement) -> list[_Slow]:
    series = measurement.series
    bins = sorted(range(len(series.due)), key=lambda place: (-series.max_ms[place], place))[:_MOST_SLOW]
    return [
        _Slow(
            at_s=place * series.bin_s,
            due=series.due[place],
            answered=series.answered[place],
            in_flight=series.in_flight[place],
            max_ms=series.max_ms[place],
        )
        for place in bins
        if series.max_ms[place] > 0
    ]


def _render(template: str, **values: object) -> str:
    return render(_environment(), f"own/{template}", **values)


@cache
def _environment() -> Environment:
    environment = page_environment(
        "tubelet.loadtest",
        {
            "arrivals": describe_arrivals,
            "batches": formed_batches,
            "clause": describe_clause,
            "codes": describe_codes,
            "counted": counted,
            "errors": lambda kind: _unbroken(describe_share(error_share([kind]), 1 if kind.requests else 0)),
            "failed": lambda kind: sum(kind.errors.values()),
            "figure": lambda value: _unbroken(number(value)),
            "given": lambda value: f"{value:g}",
            "ms": lambda value: _unbroken(describe_time_ms(value)),
            "share": lambda part, whole: _unbroken(describe_share(part, whole)),
            "time": lambda latency, name: _unbroken(time_or_none(latency, getattr(latency, name))),
            "unbroken": lambda text: _unbroken(text),
            "videos": describe_videos,
        },
    )
    environment.globals["nothing"] = NOTHING
    return environment


def _unbroken(text: str) -> str:
    """A figure with its unit, which a line must not tear apart."""
    return text.replace(" ", "\N{NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")
