"""What happened when: rates, latency and the server's side, one above the other on one axis of time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tubelet.loadtest.figures import LINES, on_latency_scale
from tubelet.loadtest.measured import Measurement, Series, ServerSeries
from tubelet.loadtest.quantities import describe_time_ms, number
from tubelet.pages.svg import ACCENT, OTHER, QUIET, canvas, to_svg

__all__ = ["Timeline", "draw_timeline"]

_MOST_POINTS = 300
"""Of a line; more bins or samples are drawn together."""
_ROW_INCHES = 1.15


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """The picture, and how it is to be read."""

    drawn: Markup
    bin_s: float
    """Seconds that one step of a line stands for."""
    has_server: bool
    has_queue: bool


def draw_timeline(measurement: Measurement) -> Timeline | None:
    """All that is known over time.

    Returns:
        None: the test ended before there was anything to draw.
    """
    if not measurement.series.due or not measurement.duration_s:
        return None
    series, server = _Bins(measurement.series, measurement.duration_s), _sampled(measurement)
    rows: list[Callable[[Axes], None]] = [series.draw_rates, series.draw_latency, series.draw_in_flight]
    has_queue = server is not None and max(server.queued) >= 0
    if server is not None:
        samples = _Samples(server)
        rows += [samples.draw_cpu, samples.draw_memory] + [samples.draw_queue] * has_queue
    end_s = measurement.duration_s if server is None else max(measurement.duration_s, server.at_s[-1])
    with canvas(0.5 + _ROW_INCHES * len(rows)) as figure:
        every = figure.subplots(len(rows), 1, sharex=True)
        for axes, draw in zip(every, rows, strict=True):
            draw(axes)
            axes.grid(axis="x", alpha=0.5)
        every[-1].set(xlim=(0, end_s), xlabel="seconds since the measured time began")
        every[-1].xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 3, 5, 6, 10)))
        figure.align_ylabels(every)
        drawn = to_svg(figure, name="timeline", description=f"Over time. {_words(measurement)}")
    return Timeline(drawn=drawn, bin_s=series.bin_s, has_server=server is not None, has_queue=has_queue)


class _Bins:
    """The generator's series, thinned to what a picture can show: of figures drawn together the worst is kept."""

    def __init__(self, series: Series, duration_s: float) -> None:
        group = math.ceil(len(series.due) / _MOST_POINTS)
        self.bin_s = series.bin_s * group
        starts = np.arange(0, len(series.due), group)
        self.edges = np.minimum(np.append(starts, len(series.due)) * series.bin_s, duration_s)
        widths = np.diff(self.edges)
        if len(widths) > 1:
            widths[widths < self.bin_s / 2] = np.nan  # of a bin that was cut short a rate says nothing
        self._rates = {
            name: np.add.reduceat(counts, starts) / widths
            for name, counts in (("due", series.due), ("answered", series.answered), ("failed", series.failed))
        }
        self._in_flight = np.maximum.reduceat(series.in_flight, starts)
        self._times = {
            name: _nothing_as_gap(np.maximum.reduceat(times, starts))
            for name, times in (("max", series.max_ms), ("p99", series.p99_ms), ("p50", series.p50_ms))
        }

    def draw_rates(self, axes: Axes) -> None:
        styles = {"due": {"color": QUIET, "linestyle": "-", "linewidth": 3, "alpha": 0.5}, "answered": LINES[0]}
        for name, style in styles.items():
            axes.stairs(self._rates[name], self.edges, baseline=None, label=name, **{"linewidth": 1.2, **style})
        if np.nansum(self._rates["failed"]):
            axes.stairs(self._rates["failed"], self.edges, baseline=None, label="failed", linewidth=1.4, **LINES[1])
        _from_zero(axes, "a second")
        _legend(axes)

    def draw_latency(self, axes: Axes) -> None:
        for (name, times), style in zip(self._times.items(), (LINES[2], LINES[1], LINES[0]), strict=True):
            axes.stairs(times, self.edges, baseline=None, label=name, linewidth=1.2, **style)
        times = np.concatenate(list(self._times.values()))
        if np.isfinite(times).any():
            on_latency_scale(axes, times[np.isfinite(times)])
        axes.set_ylabel("latency")
        _legend(axes)

    def draw_in_flight(self, axes: Axes) -> None:
        axes.stairs(self._in_flight, self.edges, fill=True, color=ACCENT, alpha=0.35, linewidth=0)
        axes.stairs(self._in_flight, self.edges, baseline=None, color=ACCENT, linewidth=1.2)
        _from_zero(axes, "in flight", whole=True)


class _Samples:
    """The server's series."""

    def __init__(self, series: ServerSeries) -> None:
        step = math.ceil(len(series.at_s) / _MOST_POINTS)
        self._at_s = np.array(series.at_s)[::step]
        starts = np.arange(0, len(series.at_s), step)
        self._cpu = np.add.reduceat(series.cpu_cores, starts) / np.diff(np.append(starts, len(series.at_s)))
        self._memory = np.maximum.reduceat(series.memory_mib, starts)
        queued = np.maximum.reduceat(series.queued, starts).astype(np.float64)
        self._queued = np.where(queued < 0, np.nan, queued)

    def draw_cpu(self, axes: Axes) -> None:
        axes.plot(self._at_s, self._cpu, color=OTHER, linewidth=1.2)
        _from_zero(axes, "CPU cores")

    def draw_memory(self, axes: Axes) -> None:
        axes.plot(self._at_s, self._memory, color=OTHER, linewidth=1.2)
        low, high = float(self._memory.min()), float(self._memory.max())
        room = max(0.15 * (high - low), 0.02 * high, 1.0)
        axes.set(ylim=(max(low - room, 0), high + room), ylabel="memory, MiB")
        _few_ticks(axes)

    def draw_queue(self, axes: Axes) -> None:
        axes.plot(self._at_s, self._queued, color=OTHER, linewidth=1.2)
        _from_zero(axes, "queued", whole=True)


def _sampled(measurement: Measurement) -> ServerSeries | None:
    """The server's series, where there is a line to be drawn through it."""
    if measurement.server is None or len(measurement.server.series.at_s) < 2:
        return None
    return measurement.server.series


def _nothing_as_gap(times: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(times > 0, times, np.nan)


def _from_zero(axes: Axes, label: str, *, whole: bool = False) -> None:
    axes.set_ylabel(label)
    axes.set_ylim(0, max(axes.dataLim.y1 * 1.08, 1 if whole else 1e-3))
    _few_ticks(axes, whole=whole)


def _few_ticks(axes: Axes, *, whole: bool = False) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=whole, steps=(1, 2, 5, 10)))
    axes.grid(axis="y", alpha=0.5)


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        frameon=False,
        handlelength=2.5,
        borderpad=0,
        borderaxespad=0.2,
    )


def _words(measurement: Measurement) -> str:
    series = measurement.series
    longest = _longest_silence(series.answered, series.in_flight) * series.bin_s
    worst = int(np.argmax(series.max_ms))
    slowest = (
        f"the longest latency, {describe_time_ms(series.max_ms[worst])}, of a request due {worst * series.bin_s:g} s "
        "after the beginning"
        if series.max_ms[worst] > 0
        else "no latency"
    )
    return (
        f"{number(measurement.offered_rate)} requests and {number(measurement.rate)} answers a second on average, at "
        f"most {max(series.in_flight):,} in flight, {longest:g} s at a stretch without an answer to any of those in "
        f"flight; {slowest}."
    )


def _longest_silence(answered: Sequence[int], in_flight: Sequence[int]) -> int:
    """Most bins in a row in which nothing was answered although something was asked."""
    longest = run = 0
    for answers, waiting in zip(answered, in_flight, strict=True):
        run = run + 1 if waiting and not answers else 0
        longest = max(longest, run)
    return longest
