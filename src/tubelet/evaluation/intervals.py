"""Confidence intervals by the percentile bootstrap over videos, and Wilson's where that has nothing to vary.

Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), section 13.3: the list's videos are drawn anew, with
repetition, and the middle 95 % of the figures of these draws are the interval. Rows of one and the same file are drawn
together: what a list names twice, or cuts into segments, is not independent.

Where all videos are right, or none, all draws are equal and their interval has no width. It is then that of Wilson
1927 (*Probable inference, the law of succession, and statistical inference*) for as many videos.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from tubelet.evaluation.result import Estimate

__all__ = ["RESAMPLES", "SEED", "clusters_of", "estimate", "estimate_unbiased", "paired_weights", "proportion"]

RESAMPLES = 2000
SEED = 0

_LEVEL = 0.95
_BATCH_NUMBERS = 4_000_000
"""Weights in memory at a time."""


def clusters_of(uris: Sequence[str]) -> NDArray[np.int64]:
    """``[N]``, the same number for rows of the same file, from 0."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(uri, len(numbers)) for uri in uris], dtype=np.int64)


def paired_weights(
    clusters: NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = SEED
) -> Iterator[NDArray[np.float64]]:
    """Draws as many files as there are, with repetition, again and again.

    The same clusters give the same draws, so that two figures of the same list, or of two runs, can be paired.

    Args:
        clusters: ``[N]``, see `clusters_of`; N at least 1.
        resamples: how often.
        seed: of the random numbers.

    Yields:
        ``[b, N]``: how often each row is in each of the next b resamples; b of all batches sum to ``resamples``.
    """
    num_clusters = int(clusters.max()) + 1
    batch = max(1, _BATCH_NUMBERS // max(num_clusters, len(clusters)))
    random = np.random.default_rng(seed)
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        drawn = random.integers(num_clusters, size=(size, num_clusters))
        drawn += np.arange(size)[:, None] * num_clusters
        counts = np.bincount(drawn.ravel(), minlength=size * num_clusters).reshape(size, num_clusters)
        yield counts[:, clusters].astype(np.float64)


def estimate(value: float, samples: NDArray[np.float64], *, number: int | None = None) -> Estimate:
    """A figure with its interval.

    Args:
        value: of the list itself.
        samples: ``[resamples]``, of the resamples; those that are not a number, as a resample has no video that counts,
            are passed over.
        number: of the independent videos that the figure is a share of; where all are right, or none, the interval is
            Wilson's. None: the figure is no such share.

    Returns:
        The interval is widened to hold the value: resamples of a short list can miss a mean over classes altogether.
    """
    if number is not None and value in (0.0, 1.0):
        return proportion(round(value * number), number)
    edge = (1 - _LEVEL) / 2
    known = samples[~np.isnan(samples)]
    low, high = np.quantile(known, (edge, 1 - edge)) if len(known) else (value, value)
    return Estimate(value=float(value), low=min(float(low), float(value)), high=max(float(high), float(value)))


def estimate_unbiased(value: float, samples: NDArray[np.float64], *, lowest: float = 0.0) -> Estimate:
    """As `estimate`, for figures that are larger or smaller in resamples than in lists: these are moved to ``value``.

    The bootstrap's estimate of bias: Efron and Tibshirani 1993, section 10.2. What is moved out of the figure's reach,
    from ``lowest`` to 1, is put at its end.
    """
    return estimate(value, np.clip(samples - (np.nanmean(samples) - value), lowest, 1.0))


@lru_cache(maxsize=4096)
def proportion(count: int, number: int) -> Estimate:
    """A share with the 95 % interval by Wilson, which keeps its promise for few videos too (scipy's)."""
    interval = binomtest(count, number).proportion_ci(_LEVEL, method="wilson")
    return Estimate(value=count / number, low=float(interval.low), high=float(interval.high))
