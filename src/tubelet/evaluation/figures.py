"""What the report of an evaluation draws. Shares are 0 to 1; C classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from tubelet.pages.names import shortened
from tubelet.pages.svg import ACCENT, OTHER, QUIET, canvas, to_svg

__all__ = [
    "Bar",
    "Step",
    "draw_changes",
    "draw_classes",
    "draw_confusion",
    "draw_intervals",
    "draw_reliability",
]

_FEW = 40
"""Classes that are drawn as bars of their own; more become one outline."""
_NAMED = 24
"""Classes whose names stand beside a heat map; more are numbered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A share with the interval in which it lies."""

    name: str
    share: float
    low: float
    high: float
    second: bool = False
    """Of the second of two runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The answers of about one probability."""

    confidence: float
    """Their mean probability."""
    right: float
    """Share of them that is right."""
    low: float
    high: float
    count: int


def draw_intervals(bars: Sequence[Bar], *, name: str) -> Markup:
    """Shares as points on lines that show their intervals, the first on top."""
    with canvas(0.55 + 0.3 * len(bars)) as figure:
        axes = figure.subplots()
        places = np.arange(len(bars))[::-1]
        for place, bar in zip(places, bars, strict=True):
            colour = OTHER if bar.second else ACCENT
            axes.plot((bar.low, bar.high), (place, place), color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.plot(bar.share, place, "o", color=colour, markersize=6, clip_on=False)
        axes.set_yticks(places, [shortened(bar.name) for bar in bars])
        axes.set(xlim=_reach(bars), ylim=(-0.6, len(bars) - 0.4))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
        axes.tick_params(axis="y", length=0)
        _percent(axes, "x")
        words = "; ".join(f"{bar.name} {bar.share:.1%} ({bar.low:.1%} to {bar.high:.1%})" for bar in bars)
        return to_svg(figure, name=name, description=f"Shares with 95 % intervals: {words}.")


def draw_classes(shares: NDArray[np.float64], overall: float, *, measure: str, name: str) -> Markup:
    """Each class's figure ``[C]``, such as its top-1, the best first, and that of the whole list as a line."""
    ordered = np.sort(shares)[::-1]
    with canvas(2.4) as figure:
        axes = figure.subplots()
        _columns(axes, ordered, ACCENT)
        axes.axhline(overall, color=OTHER, linewidth=1.5, linestyle="--")
        axes.set(xlim=(0, len(ordered)), ylim=(0, 1.02), xlabel="classes, the best first", ylabel=measure)
        axes.set_xticks([0, len(ordered)], ["1", str(len(ordered))])
        _percent(axes, "y")
        low, middle, high = np.quantile(ordered, (0.25, 0.5, 0.75))
        words = f"median {middle:.1%}, quartiles {low:.1%} and {high:.1%}; dashed line: {overall:.1%}"
        return to_svg(figure, name=name, description=f"{measure} of each of {len(ordered)} classes: {words}.")


def draw_changes(changes: NDArray[np.float64], *, measure: str, name: str) -> Markup:
    """Each class's change from the first run to the second ``[C]``, the greatest gain first."""
    ordered = np.sort(changes)[::-1]
    with canvas(2.4) as figure:
        axes = figure.subplots()
        _columns(axes, np.maximum(ordered, 0), OTHER)
        _columns(axes, np.minimum(ordered, 0), ACCENT)
        axes.axhline(0, color=QUIET, linewidth=0.8)
        reach = max(0.05, float(np.abs(ordered).max(initial=0))) * 1.05
        axes.set(xlim=(0, len(ordered)), ylim=(-reach, reach), xlabel="classes", ylabel=f"{measure}, points")
        axes.set_xticks([0, len(ordered)], ["1", str(len(ordered))])
        _points(axes)
        words = f"{(ordered > 0).sum()} better in run B, {(ordered < 0).sum()} worse"
        return to_svg(figure, name=name, description=f"Change of {measure} of {len(ordered)} classes: {words}.")


def draw_confusion(
    counts: NDArray[np.int64], totals: NDArray[np.int64], names: Sequence[str], numbers: Sequence[int], *, name: str
) -> Markup:
    """A heat map: rows are right classes, columns answers, each row's shares of its class's videos.

    Args:
        counts: ``[K, K]``, videos of K classes.
        totals: ``[K]``, all videos of each class, those too that were taken for a class that is not drawn.
        names: K names.
        numbers: K indices, as the tables have them.
        name: of the picture.
    """
    shares = counts / np.maximum(totals[:, None], 1)
    size = len(names)
    named = size <= _NAMED
    with canvas(5.0 if size > 10 else 3.6) as figure:
        axes = figure.subplots()
        axes.imshow(_ink_by_share(shares), interpolation="none", aspect="auto")
        step = 1 if size <= 40 else 5
        places = np.arange(0, size, step)
        axes.set_xticks(places, [str(numbers[i]) for i in places], rotation=90 if size > 10 else 0)
        axes.set_yticks(places, [f"{shortened(names[i])}  {numbers[i]}" if named else str(numbers[i]) for i in places])
        axes.tick_params(length=0, labelsize=9 if size <= 10 else 8 if size <= 24 else 6.5)
        axes.set(xlabel="answered class", ylabel="" if named else "right class")
        words = f"{np.trace(shares) / max(size, 1):.1%} on the diagonal on average"
        return to_svg(figure, name=name, description=f"Heat map of {size} right classes by answered classes: {words}.")


def draw_reliability(steps: Sequence[Step], counts: Sequence[int], *, name: str) -> Markup:
    """How often answers are right that the model is so sure of, and how many answers there are in each bin.

    Args:
        steps: of the bins that hold answers.
        counts: answers in each of B bins of equal width, from 0 to 1.
        name: of the picture.
    """
    with canvas(3.6) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot((0, 1), (0, 1), color=QUIET, linewidth=1, linestyle="--")
        for step in steps:
            upper.plot((step.confidence,) * 2, (step.low, step.high), color=ACCENT, linewidth=4, alpha=0.35)
        upper.plot(
            [s.confidence for s in steps], [s.right for s in steps], "o-", color=ACCENT, markersize=5, clip_on=False
        )
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="right answers")
        lower.stairs(counts, np.linspace(0, 1, len(counts) + 1), fill=True, color=ACCENT, alpha=0.45)
        lower.set(xlabel="probability of the answer", ylabel="videos")
        lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        _percent(upper, "y")
        _percent(lower, "x")
        words = "; ".join(f"{step.confidence:.0%} sure, {step.right:.0%} right ({step.count})" for step in steps)
        return to_svg(figure, name=name, description=f"Probability against share of right answers: {words}.")


def _reach(bars: Sequence[Bar]) -> tuple[float, float]:
    """From where to where an axis goes that shows all intervals, in whole tenths."""
    low, high = min(bar.low for bar in bars), max(bar.high for bar in bars)
    low, high = np.floor(low * 10) / 10, np.ceil(high * 10) / 10
    return (low, high) if low < high else (max(low - 0.1, 0.0), min(high + 0.1, 1.0))


def _columns(axes: Axes, heights: NDArray[np.float64], colour: str) -> None:
    if len(heights) <= _FEW:
        axes.bar(np.arange(len(heights)) + 0.5, heights, width=0.8, color=colour)
    else:
        axes.stairs(heights, np.arange(len(heights) + 1), fill=True, color=colour)


def _percent(axes: Axes, which: Literal["x", "y"]) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:.0f} %"))
    axes.grid(axis=which, alpha=0.5)


def _points(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda share, _: f"{share * 100:{'+' if share else ''}.3g}".replace("-", "\N{MINUS SIGN}"))
    )
    axes.grid(axis="y", alpha=0.5)


def _ink_by_share(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """``[K, K, 4]``: one middle tone, the more opaque the greater the share, seen on light and on dark."""
    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = (47, 118, 196)
    # The root, as few videos off the diagonal are what one looks for.
    pixels[..., 3] = np.rint(np.sqrt(shares) * 255)
    return pixels
