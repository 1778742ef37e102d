"""What a load test or a comparison found in some lines, for a terminal, and in one object for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tubelet.loadtest.changes import describe_outcome, list_changes
from tubelet.loadtest.compared import Comparison
from tubelet.loadtest.measured import KindFigures, Measurement, Result, SearchFigures, StepFigures
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
from tubelet.loadtest.verdict import describe_cautions, describe_clause, describe_notes, describe_verdict
from tubelet.pages.names import shortened
from tubelet.spec.strict import encode

__all__ = ["describe_comparison", "describe_result", "summarise"]

_LEFT_OUT = {"histogram", "blocks", "series"}
_WIDEST_NAME = 22
_WIDTH = 100
_PERCENTILES = {"p50": "p50_ms", "p90": "p90_ms", "p99": "p99_ms", "p99.9": "p999_ms", "longest": "max_ms"}


def describe_result(result: Result) -> list[str]:
    """Cautions and the verdict first, then a table of the kinds, then the server's side, the generator, the promise."""
    measurement, errors = result.measurement, result.measurement.together.errors
    return [
        *_wrapped(f"CAUTION: {caution}" for caution in describe_cautions(result)),
        *_wrapped([describe_verdict(result)]),
        *_kind_table(measurement),
        *_wrapped([_rates(measurement), *([f"errors: {describe_codes(errors)}"] if errors else [])]),
        *_server(measurement),
        *_wrapped([_generator(measurement)]),
        *_wrapped(f"promise: {describe_clause(clause)}" for clause in measurement.promised),
        *([] if result.search is None else _search(result.search)),
        *_wrapped(describe_notes(result)),
    ]


def describe_comparison(comparison: Comparison) -> list[str]:
    """The outcome, a table with regressions first, and what else is to be known."""
    rows = [
        [one.figure, shortened(one.kind, 14), one.a, one.b, one.change, one.interval, one.verdict]
        for one in list_changes(comparison)
    ]
    heads = ["figure", "kind", "A", "B", "change", "95 %", ""]
    notes = _wrapped(f"note: {note}" for note in comparison.notes)
    return [*_wrapped([describe_outcome(comparison)]), *_aligned(heads, rows, left=(0, 1, 6)), *notes]


def summarise(result: Result) -> dict[str, Any]:
    """The result as plain data without its histograms, blocks and series, and whether it is kept."""
    data: dict[str, Any] = _without_bulk(encode(result))
    return {**data, "is_kept": result.is_kept}


def _without_bulk(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_bulk(value) for key, value in data.items() if key not in _LEFT_OUT}
    return [_without_bulk(item) for item in data] if isinstance(data, list) else data


def _kind_table(measurement: Measurement) -> Iterator[str]:
    kinds = list(measurement.kinds) if len(measurement.kinds) == 1 else [*measurement.kinds, measurement.together]
    rows = [_kind_row(kind) for kind in kinds]
    yield from _aligned(["kind", "requests", "answered", "errors", *_PERCENTILES], rows, left=(0,))


def _kind_row(kind: KindFigures) -> list[str]:
    return [
        shortened(kind.name, _WIDEST_NAME),
        f"{kind.requests:,}",
        f"{kind.answered:,}",
        describe_share(error_share([kind]), kind.requests and 1),
        *(time_or_none(kind.latency, getattr(kind.latency, name)) for name in _PERCENTILES.values()),
    ]


def _rates(measurement: Measurement) -> str:
    return (
        f"{number(measurement.rate)} answers, {number(measurement.views_rate)} views, "
        f"{number(measurement.units_rate)} units a second; {number(measurement.offered_rate)} requests a second due, "
        f"for {number(measurement.duration_s)} s"
    )


def _server(measurement: Measurement) -> Iterator[str]:
    server = measurement.server
    if server is None:
        yield "server: could not be asked what it did"
        return
    rows = [_step_row(step) for step in server.steps if step.requests]
    if rows:
        yield from _aligned(["step", "requests", "in all", "queue", "compute", "batch", "most"], rows, left=(0,))
    if server.processes:
        cores, first, last = (
            sum(getattr(one, name) for one in server.processes) for name in ("cpu_cores", "first_mib", "last_mib")
        )
        yield (
            f"server: {counted(len(server.processes), 'process', 'processes')}, {number(cores)} cores busy, memory "
            f"{number(first)} MiB at first, {number(last)} MiB at last"
        )
    for gpu in server.gpus:
        busy = describe_share(gpu.utilisation, 1)
        yield f"GPU {shortened(gpu.uuid, 44)}: {busy} busy, {number(gpu.most_mib)} MiB at most"


def _step_row(step: StepFigures) -> list[str]:
    batches = formed_batches(step)
    return [
        shortened(step.name, _WIDEST_NAME),
        f"{step.requests:,}",
        *(describe_time_ms(time) for time in (step.total_ms, step.queue_ms, step.compute_ms)),
        *((number(batches[0]), f"{batches[1]:,}") if batches else (NOTHING, NOTHING)),
    ]


def _generator(measurement: Measurement) -> str:
    generator = measurement.generator
    return (
        f"generator: {'on time' if generator.is_on_time else 'LATE'}, sent "
        f"{time_or_none(generator.lag, generator.lag.p50_ms)} after due at p50, "
        f"{time_or_none(generator.lag, generator.lag.p99_ms)} at p99; {number(generator.cpu_cores)} cores busy"
    )


def _search(search: SearchFigures) -> Iterator[str]:
    knee = "no knee" if search.knee_rate is None else f"the knee at {number(search.knee_rate)} requests a second"
    yield f"search: {counted(len(search.trials), 'trial')}, {knee}"
    rows = [
        [
            number(point.rate),
            number(point.answered_rate),
            describe_time_ms(point.p50_ms),
            describe_time_ms(point.p99_ms),
            describe_share(point.error_share, 1),
            "kept" if point.kept else "broken",
        ]
        for point in search.curve
    ]
    if rows:
        yield from _aligned(["asked /s", "answered /s", "p50", "p99", "errors", "promise"], rows, left=(5,))


def _wrapped(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield from textwrap.wrap(line, _WIDTH, subsequent_indent="  ")


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = [
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()
