"""From the notes of a load to its figures: by kind of request, and over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tubelet.loadtest.histograms import histogram_of, summary, to_text
from tubelet.loadtest.measured import Block, KindFigures, Latency, Series
from tubelet.loadtest.recording import ANSWERED, CUT_OFF, Records
from tubelet.loadtest.scenario import RequestKind, Stream

__all__ = ["MOST_BINS", "NUM_BLOCKS", "errors_of", "figures_of", "figures_together", "lag_of", "rates_of", "series_of"]

NUM_BLOCKS = 20
MOST_BINS = 600


def figures_of(
    records: Records, kinds: Sequence[tuple[Stream, RequestKind]], *, duration_s: float
) -> tuple[KindFigures, ...]:
    """The figures of each kind, of those that were due in the measured time.

    Args:
        records: all.
        kinds: the scenario's, in its order.
        duration_s: the measured time.
    """
    measured = records[records.due_s >= 0]
    return tuple(
        _figures(measured[measured.kind == number], [pair], [protocols], name=pair[1].name, duration_s=duration_s)
        for number, (pair, protocols) in enumerate(zip(kinds, records.protocols, strict=True))
    )


def figures_together(
    records: Records, kinds: Sequence[tuple[Stream, RequestKind]], *, duration_s: float
) -> KindFigures:
    """The figures of all kinds together; stream, model and protocol are empty where there are several.

    Args:
        records: all.
        kinds: the scenario's.
        duration_s: the measured time.
    """
    return _figures(records[records.due_s >= 0], kinds, records.protocols, name="all", duration_s=duration_s)


def errors_of(records: Records) -> dict[str, int]:
    """How often each error came, the most frequent first."""
    counts = np.bincount(records.outcome[records.outcome > 0], minlength=len(records.codes) + 1)[1:]
    found = {code: int(count) for code, count in zip(records.codes, counts, strict=True) if count}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def lag_of(records: Records) -> Latency:
    """From due until sent, of all that open loops sent in the measured time."""
    lag_s = records.lag_s[records.due_s >= 0]
    return summary(histogram_of(lag_s[~np.isnan(lag_s)].astype(np.float64) * 1e6))


def rates_of(records: Records, *, duration_s: float) -> tuple[float, float, float]:
    """Answers, views and units a second that came in the measured time, whenever they were asked for."""
    came = records[_came(records, duration_s) & (records.outcome == ANSWERED)]
    sums = (len(came.kind), int(came.views.sum(dtype=np.int64)), int(came.units.sum(dtype=np.int64)))
    answers, views, units = (total / duration_s if duration_s else 0.0 for total in sums)
    return answers, views, units


def series_of(records: Records, *, duration_s: float) -> Series:
    """The measured time in bins of whole seconds, `MOST_BINS` at most; the last one may be cut short."""
    bin_s = float(max(1, math.ceil(duration_s / MOST_BINS)))
    num_bins = max(1, math.ceil(duration_s / bin_s))
    measured = records[records.due_s >= 0]
    came = records[_came(records, duration_s)]

    def counts(times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.bincount(_places(times_s, bin_s, num_bins), minlength=num_bins)

    due = counts(measured.due_s)
    # What was cut off at the end is in flight until then.
    ended = counts(came.ended_s[came.outcome != CUT_OFF])
    at_first = int(((records.due_s < 0) & (records.ended_s >= 0)).sum())
    p50, p99, most = _percentiles(measured[measured.outcome == ANSWERED], bin_s, num_bins)
    return Series(
        bin_s=bin_s,
        due=tuple(due.tolist()),
        answered=tuple(counts(came.ended_s[came.outcome == ANSWERED]).tolist()),
        failed=tuple(counts(came.ended_s[came.outcome > ANSWERED]).tolist()),
        in_flight=tuple((at_first + np.cumsum(due - ended)).tolist()),
        p50_ms=p50,
        p99_ms=p99,
        max_ms=most,
    )


def _came(records: Records, duration_s: float) -> NDArray[np.bool_]:
    return (records.ended_s >= 0) & (records.ended_s <= duration_s)


def _places(times_s: NDArray[np.float64], width_s: float, most: int) -> NDArray[np.int64]:
    return np.minimum(times_s / width_s, most - 1).astype(np.int64)


def _percentiles(answered: Records, bin_s: float, num_bins: int) -> tuple[tuple[float, ...], ...]:
    places = _places(answered.due_s, bin_s, num_bins)
    order = np.argsort(places, kind="stable")
    bounds = np.searchsorted(places[order], np.arange(1, num_bins))
    found = [
        np.percentile(some, (50, 99, 100), method="inverted_cdf") / 1000 if some.size else np.zeros(3)
        for some in np.split(answered.latency_us[order], bounds)
    ]
    return tuple(tuple(values) for values in np.stack(found, axis=1).tolist())


def _figures(
    records: Records,
    kinds: Sequence[tuple[Stream, RequestKind]],
    protocols: Sequence[frozenset[str]],
    *,
    name: str,
    duration_s: float,
) -> KindFigures:
    answered, failed = records[records.outcome == ANSWERED], records[records.outcome > ANSWERED]
    priorities = {stream.priority for stream, _ in kinds}
    return KindFigures(
        name=name,
        stream=_only({stream.name for stream, _ in kinds}),
        model=_only({kind.model for _, kind in kinds}),
        protocol=_only(set().union(*protocols)),
        priority="interactive" if "interactive" in priorities else "archive",
        requests=len(records.kind),
        answered=len(answered.kind),
        errors=errors_of(records),
        cut_off=int((records.outcome == CUT_OFF).sum()),
        views=int(answered.views.sum(dtype=np.int64)),
        units=int(answered.units.sum(dtype=np.int64)),
        bytes_sent=int(answered.num_bytes.sum(dtype=np.int64)),
        latency=summary(histogram_of(answered.latency_us)),
        failure_latency=summary(histogram_of(failed.latency_us)),
        server=summary(histogram_of(np.nan_to_num(answered.server_ms, posinf=0.0).astype(np.float64) * 1000)),
        blocks=_blocks(records, duration_s),
    )


def _only(names: set[str]) -> str:
    return names.pop() if len(names) == 1 else ""


def _blocks(records: Records, duration_s: float) -> tuple[Block, ...]:
    places = _places(records.due_s, duration_s / NUM_BLOCKS or 1.0, NUM_BLOCKS)
    blocks = (records[places == number] for number in range(NUM_BLOCKS))
    return tuple(
        Block(
            requests=len(block.kind),
            errors=int((block.outcome > ANSWERED).sum()),
            histogram=to_text(histogram_of(block.latency_us[block.outcome == ANSWERED])),
        )
        for block in blocks
    )
