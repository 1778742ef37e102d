"""Distributions of times as HdrHistograms: made, kept as text, and summed up."""

from __future__ import annotations

import zlib

import numpy as np
from hdrh.codec import HdrCookieException, HdrHistogramSettingsException, HdrLengthException
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from tubelet.loadtest.measured import Latency
from tubelet.spec.errors import InvalidRequestError

__all__ = ["MOST_US", "from_text", "histogram_of", "new_histogram", "summary", "to_text"]

MOST_US = 3_600_000_000
"""An hour; longer times count as one."""

_DIGITS = 3
_PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p95_ms": 95.0, "p99_ms": 99.0, "p999_ms": 99.9}


def new_histogram() -> HdrHistogram:
    """One without any time: of microseconds from 1 to `MOST_US`, three digits of each."""
    return HdrHistogram(1, MOST_US, _DIGITS)


def histogram_of(times_us: NDArray[np.float64]) -> HdrHistogram:
    """The histogram of times in microseconds; those that are out of its range count as its ends."""
    histogram = new_histogram()
    times = times_us.clip(1, MOST_US).astype(np.int64)
    # What falls into one counter is counted at once: the library takes one value at a time.
    shift = np.maximum(0, np.frexp(times)[1] - int(histogram.sub_bucket_count).bit_length() + 1)
    for value, count in zip(*np.unique(times >> shift << shift, return_counts=True), strict=True):
        histogram.record_value(int(value), int(count))
    return histogram


def to_text(histogram: HdrHistogram) -> str:
    """HdrHistogram's own base64 text (V2, compressed)."""
    text: bytes = histogram.encode()
    return text.decode("ascii")


def from_text(text: str) -> HdrHistogram:
    """Reads what `to_text` wrote; it may be added to others of `new_histogram`.

    Raises:
        InvalidRequestError: ``bad_input``, this is no such text.
    """
    try:
        histogram = HdrHistogram.decode(text)
    except (ValueError, zlib.error, HdrCookieException, HdrLengthException, HdrHistogramSettingsException) as exc:
        raise InvalidRequestError("bad_input", f"a histogram of the result cannot be read: {exc!r}") from exc
    bounds = (histogram.lowest_trackable_value, histogram.highest_trackable_value, histogram.significant_figures)
    if bounds != (1, MOST_US, _DIGITS):
        raise InvalidRequestError(
            "bad_input", f"a histogram from 1 to {MOST_US} with {_DIGITS} digits is expected, got {bounds}"
        )
    return histogram


def summary(histogram: HdrHistogram) -> Latency:
    """What is told of it at first; all of it stands beside."""
    if not histogram.total_count:
        found = dict.fromkeys(_PERCENTILES, 0.0)
    else:
        by_percentile = histogram.get_percentile_to_value_dict(list(_PERCENTILES.values()))
        found = {name: by_percentile[percentile] / 1000 for name, percentile in _PERCENTILES.items()}
    return Latency(
        count=histogram.total_count,
        mean_ms=_mean_us(histogram) / 1000,
        max_ms=histogram.get_max_value() / 1000,
        histogram=to_text(histogram),
        **found,
    )


def _mean_us(histogram: HdrHistogram) -> float:
    """As the library has it, which looks at the empty counters too, one by one: that takes longer than all the rest."""
    counts = np.frombuffer(histogram.counts, dtype=np.uint64)
    filled = np.flatnonzero(counts)
    lowest = [histogram.get_value_from_index(int(index)) for index in filled]
    middle = [(value + histogram.get_highest_equivalent_value(value) + 1) // 2 for value in lowest]
    total_us: float = np.dot(counts[filled], np.array(middle, dtype=np.float64))
    return float(total_us) / max(1, int(histogram.total_count))
