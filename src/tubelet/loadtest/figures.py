"""What the report of a load test draws: how latency is distributed, how it grows with load, where the time goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from tubelet.loadtest.changes import Change
from tubelet.loadtest.histograms import from_text
from tubelet.loadtest.measured import CurvePoint, KindFigures, SearchFigures, StepFigures
from tubelet.loadtest.quantities import describe_time_ms, number
from tubelet.pages.names import shortened
from tubelet.pages.svg import ACCENT, INK, OTHER, QUIET, canvas, to_svg

__all__ = ["LINES", "draw_changes", "draw_curve", "draw_distribution", "draw_steps", "on_latency_scale"]

LINES: tuple[dict[str, Any], ...] = (
    {"color": ACCENT, "linestyle": "-"},
    {"color": OTHER, "linestyle": (0, (6, 2))},
    {"color": INK, "linestyle": (0, (1, 1.5))},
    {"color": ACCENT, "linestyle": (0, (6, 2, 1, 2))},
    {"color": OTHER, "linestyle": (0, (3, 1.5, 1, 1.5, 1, 1.5))},
)
"""Lines of one picture, told apart by their dashes where colours are not seen."""

_MOST_CHANGES = 24
_POINTS = 120
"""Of a line of the distribution."""
_PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "queue": ("queue_ms", {"facecolor": "none", "edgecolor": OTHER, "hatchcolor": OTHER, "hatch": "/////"}),
    "input": ("input_ms", {"facecolor": "none", "edgecolor": QUIET}),
    "compute": ("compute_ms", {"facecolor": ACCENT, "edgecolor": ACCENT}),
    "output": ("output_ms", {"facecolor": INK, "edgecolor": INK}),
}
"""Of a step's time: its figure, and a manner that is told apart without colours."""


def draw_distribution(kinds: Sequence[KindFigures]) -> Markup | None:
    """Latency by percentile, a line for each kind; the rarer a time, the further to the right, as HdrHistogram has it.

    Returns:
        None: no kind has an answer.
    """
    answered = [kind for kind in kinds if kind.latency.count][: len(LINES)]
    if not answered:
        return None
    lines = [_percentiles(kind.latency.histogram) for kind in answered]
    with canvas(3.4) as figure:
        axes = figure.subplots()
        for kind, (rareness, latency), style in zip(answered, lines, LINES, strict=False):
            axes.plot(rareness, latency, linewidth=1.6, label=shortened(kind.name), **style)
        _on_percentile_scale(axes, max(float(rareness[-1]) for rareness, _ in lines))
        on_latency_scale(axes, np.concatenate([latency for _, latency in lines]))
        axes.set(xlabel="of the answers, %", ylabel="latency, no longer than")
        _legend(figure, len(answered))
        words = "; ".join(
            f"{kind.name}: half within {describe_time_ms(kind.latency.p50_ms)}, 99 % within "
            f"{describe_time_ms(kind.latency.p99_ms)}, all within {describe_time_ms(kind.latency.max_ms)}"
            for kind in answered
        )
        return to_svg(figure, name="distribution", description=f"Latency by percentile. {words}.")


def draw_curve(search: SearchFigures) -> Markup | None:
    """Latency over throughput: a line through the medians of each rate, a mark for each trial.

    Returns:
        None: no trial has an answer.
    """
    points = [point for point in search.curve if point.p99_ms > 0]
    trials = [trial for trial in search.trials if trial.p99_ms > 0]
    if not trials:
        return None
    with canvas(3.6) as figure:
        axes = figure.subplots()
        for name, style in (("p50_ms", LINES[1]), ("p99_ms", LINES[0])):
            axes.plot(
                [point.answered_rate for point in points],
                [getattr(point, name) for point in points],
                linewidth=1.4,
                label=name.removesuffix("_ms"),
                **style,
            )
        for kept, mark, label in ((True, "o", "p99, kept"), (False, "x", "p99, broken")):
            of = [trial for trial in trials if trial.kept is kept]
            axes.plot(
                [trial.answered_rate for trial in of],
                [trial.p99_ms for trial in of],
                mark,
                color=ACCENT if kept else INK,
                markersize=5,
                label=label if of else None,
            )
        _mark_knee(axes, points, search.knee_rate)
        on_latency_scale(axes, np.array([time for one in trials for time in (one.p50_ms, one.p99_ms) if time > 0]))
        axes.set_xlim(0, max(trial.answered_rate for trial in trials) * 1.06)
        axes.set(xlabel="answers a second", ylabel="latency")
        _legend(figure, 3)
        return to_svg(figure, name="curve", description=f"Latency over throughput. {_curve_words(search)}")


def draw_steps(steps: Sequence[StepFigures]) -> Markup | None:
    """A bar for each step: how long a request waited and was worked at, in the order in which it goes through them.

    Returns:
        None: no step had a request.
    """
    used = [step for step in steps if step.requests]
    if not used:
        return None
    with canvas(0.9 + 0.3 * len(used)) as figure:
        axes = figure.subplots()
        places = np.arange(len(used))[::-1]
        begin: NDArray[np.float64] = np.zeros(len(used))
        for label, (field, style) in _PARTS.items():
            widths = np.array([getattr(step, field) for step in used], np.float64)
            axes.barh(places, widths, 0.62, left=begin, label=label, linewidth=0.8, **style)
            begin = begin + widths
        axes.set_yticks(places, [shortened(step.name, 26) for step in used])
        axes.set(xlim=(0, max(float(begin.max()), 1e-3) * 1.03), ylim=(-0.6, len(used) - 0.4))
        axes.set_xlabel("mean of a request, ms")
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.5)
        _legend(figure, len(_PARTS))
        words = "; ".join(_step_words(step) for step in used)
        return to_svg(figure, name="steps", description=f"Where the time of a request goes. {words}.")


def _step_words(step: StepFigures) -> str:
    parts = (f"{part} {describe_time_ms(getattr(step, field))}" for part, (field, _) in _PARTS.items())
    return f"{step.name}: {', '.join(parts)}"


def draw_changes(changes: Sequence[Change], *, threshold: float) -> Markup | None:
    """Relative changes as points on lines that show their intervals, and how much is allowed.

    Returns:
        None: no change is relative and has an interval.
    """
    drawn = [(change, change.span) for change in changes if change.span is not None][:_MOST_CHANGES]
    if not drawn:
        return None
    with canvas(0.75 + 0.26 * len(drawn)) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=QUIET, linewidth=0.8)
        for allowed in (-threshold, threshold):
            axes.axvline(allowed, color=QUIET, linewidth=1, linestyle=":")
        places = range(len(drawn))[::-1]
        for place, (change, (low, found, high)) in zip(places, drawn, strict=True):
            colour, mark = (OTHER, "s") if change.is_regression else (ACCENT, "o")
            axes.plot((low, high), (place, place), color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.plot(found, place, mark, color=colour, markersize=5.5)
        names = [f"{change.figure}, {shortened(change.kind, 16)}" for change, _ in drawn]
        axes.set_yticks(list(places), names)
        axes.set(ylim=(-0.6, len(drawn) - 0.4), xlabel="B against A")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:+.3g} %" if share else "0"))
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.5)
        words = "; ".join(
            f"{change.figure} of {change.kind} {change.change} ({change.interval})" for change, _ in drawn
        )
        return to_svg(figure, name="changes", description=f"Changes with 95 % intervals: {words}.")


def on_latency_scale(axes: Axes, times_ms: NDArray[np.float64]) -> None:
    """Makes the vertical axis logarithmic, reaching over these times (above 0), with times as its labels."""
    low, high = float(times_ms.min()) / 1.25, float(times_ms.max()) * 1.25
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = _ticks(low, high)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FixedFormatter([_short_time(tick) for tick in ticks]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", alpha=0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Round times between two times, from two to some seven."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        found = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(found) >= 3:
            break
    return found


def _short_time(milliseconds: float) -> str:
    return f"{milliseconds / 1000:g} s" if milliseconds >= 1000 else f"{milliseconds:g} ms"


def _percentiles(text: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``[P]`` and ``[P]``: how rare an answer is that takes longer, as log10 of one in so many; latency in ms."""
    histogram = from_text(text)
    rareness = np.linspace(0, math.log10(max(histogram.get_total_count(), 2)), _POINTS)
    percentiles = [*(100 * (1 - 10.0 ** -rareness[:-1])).tolist(), 100.0]
    values = histogram.get_percentile_to_value_dict(percentiles)
    return rareness, np.array([max(values[it], 1) / 1000 for it in percentiles])


def _on_percentile_scale(axes: Axes, most: float) -> None:
    axes.set_xlim(0, max(most, 1.0) * 1.02)
    ticks = {0.0: "0", math.log10(2): "50"} | {
        float(nines): f"{100 * (1 - 10.0**-nines):.{max(nines - 2, 0)}f}" for nines in range(1, math.floor(most) + 1)
    }
    if most >= 4:  # labels of the right end need the room
        del ticks[math.log10(2)]
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.grid(axis="x", alpha=0.5)


def _mark_knee(axes: Axes, points: Sequence[CurvePoint], knee_rate: float | None) -> None:
    if knee_rate is None or not points:
        return
    knee = min(points, key=lambda point: abs(point.rate - knee_rate))
    axes.axvline(knee.answered_rate, color=QUIET, linewidth=1, linestyle=":")
    axes.annotate(
        "knee", (knee.answered_rate, 1), (-3, -2), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
        ha="right", va="top", color=INK,
    )  # fmt: skip


def _curve_words(search: SearchFigures) -> str:
    points = "; ".join(
        f"{number(point.answered_rate)} answers a second: p50 {describe_time_ms(point.p50_ms)}, p99 "
        f"{describe_time_ms(point.p99_ms)}, {'kept' if point.kept else 'broken'}"
        for point in search.curve
    )
    knee = "no knee" if search.knee_rate is None else f"knee at {number(search.knee_rate)} requests a second"
    return f"{points}; {knee}."


def _legend(figure: Any, entries: int) -> None:
    columns = 4 if entries == 4 else min(entries, 2)
    figure.legend(
        loc="outside upper left", ncols=columns, frameon=False, handlelength=3, columnspacing=1.2, borderpad=0
    )
