"""What chance does to the figures of a load: the percentile bootstrap over blocks of time.

Requests that follow each other are slow together, so that they cannot be drawn one by one: blocks of the measured time
are drawn anew, with repetition, as many as there are, and each time every figure is computed of what was drawn (Efron
and Tibshirani, *An Introduction to the Bootstrap*, 1993, sections 8.6 and 13.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tubelet.loadtest.compared import FigureName
from tubelet.loadtest.histograms import from_text, new_histogram
from tubelet.loadtest.measured import Block

__all__ = ["draw_blocks", "interval", "resample"]

_RESAMPLES = 1000
_PERCENTILES: Mapping[FigureName, float] = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def draw_blocks(num_blocks: int, *, seed: int) -> NDArray[np.int64]:
    """``[1000, num_blocks]``: how often each block is in each resample; equal for equal arguments."""
    random = np.random.default_rng(seed)
    return random.multinomial(num_blocks, np.full(num_blocks, 1 / num_blocks), size=_RESAMPLES)


def resample(
    blocks: Sequence[Block], drawn: NDArray[np.int64], *, duration_s: float
) -> dict[FigureName, NDArray[np.float64]]:
    """The figures of every resample.

    Args:
        blocks: of one kind of request.
        drawn: see `draw_blocks`.
        duration_s: of all blocks together.

    Returns:
        Of each figure ``[resamples]``; latencies in milliseconds, ``errors`` as a share of what ended, ``rate`` in
        answers a second. What a resample cannot tell, as nothing was answered in it, is not a number.

    Raises:
        InvalidRequestError: ``bad_input``, a block's histogram cannot be read.
    """
    values_ms, counts = _distributions(blocks)
    answered = drawn @ counts.sum(axis=1)
    failed = drawn @ np.array([block.errors for block in blocks], dtype=np.int64)
    with np.errstate(invalid="ignore"):
        found: dict[FigureName, NDArray[np.float64]] = {
            "mean": drawn @ (counts @ values_ms) / answered,
            "errors": failed / (failed + answered),
        }
    found["rate"] = answered / duration_s
    found.update(_percentiles(values_ms, counts, drawn))
    return found


def interval(samples: NDArray[np.float64], *, level: float = 0.95) -> tuple[float, float] | None:
    """The middle share of those samples that are numbers; None: there are none."""
    known = samples[np.isfinite(samples)]
    if not len(known):
        return None
    low, high = np.quantile(known, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def _distributions(blocks: Sequence[Block]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """``[V]`` latencies that occur, in milliseconds and rising, and ``[blocks, V]``, how often in each block."""
    dense = [np.ctypeslib.as_array(from_text(block.histogram).counts).astype(np.int64) for block in blocks]
    occurring = np.flatnonzero(sum(dense))
    value_of = new_histogram().get_value_from_index
    values = np.array([value_of(int(index)) for index in occurring], dtype=np.float64) / 1000
    return values, np.stack([counts[occurring] for counts in dense])


def _percentiles(
    values: NDArray[np.float64], counts: NDArray[np.int64], drawn: NDArray[np.int64]
) -> dict[FigureName, NDArray[np.float64]]:
    up_to = counts.cumsum(axis=1)  # [blocks, V]
    total = drawn @ counts.sum(axis=1)  # [resamples]
    found = {}
    for name, share in _PERCENTILES.items():
        rank = np.maximum(1, np.floor(share * total + 0.5))  # as HdrHistogram's own
        at = _first_reaching(rank, up_to, drawn)
        found[name] = np.where(total > 0, np.append(values, np.nan)[at], np.nan)
    return found


def _first_reaching(rank: NDArray[np.float64], up_to: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[resamples]``, the first place up to which a resample holds as many as its rank, by bisection."""
    low = np.zeros(len(drawn), dtype=np.int64)
    high = np.full(len(drawn), max(0, up_to.shape[1] - 1), dtype=np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        is_reached = (drawn * up_to[:, middle].T).sum(axis=1) >= rank
        low, high = np.where(is_reached, low, middle + 1), np.where(is_reached, middle, high)
    return low
