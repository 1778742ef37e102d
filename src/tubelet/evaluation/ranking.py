"""Where the right class stands among all, video by video: of one head, or of the product of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

__all__ = ["NO_RANK", "Ranking", "rank_head", "rank_of", "rank_product"]

NO_RANK = np.iinfo(np.int64).max
"""Behind every class, however few there are: a failed video is not among the first five of four."""

_CHUNK_NUMBERS = 4_000_000
"""Scores in memory at a time: Epic-Kitchens has 29 100 actions."""

Scores = NDArray[Any]
"""float32 or float64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """What a single-label head said of N videos. Those that failed have no answer: class -1, no rank."""

    num_classes: int
    wanted: NDArray[np.int64]
    """``[N]``, the right class."""
    found: NDArray[np.int64]
    """``[N]``, the most probable class; -1 of a failed video."""
    rank: NDArray[np.int64]
    """``[N]``, place of the right class, 0 the best; `NO_RANK` of a failed video."""
    probability: NDArray[np.float64]
    """``[N]``, of the most probable class; not a number of a failed video."""
    log_likelihood: NDArray[np.float64]
    """``[N]``, natural logarithm of the right class's probability; not a number of a failed video."""

    @property
    def answered(self) -> NDArray[np.bool_]:
        """``[N]``."""
        return self.found >= 0


def rank_of(wanted: NDArray[np.int64], scores: Scores) -> NDArray[np.int64]:
    """Place of each row's class ``[n]`` when the classes of its ``scores`` ``[n, C]`` are ordered, 0 the best: ``[n]``.

    Among equals the lower index comes first, as with argmax, so rank 0 is the argmax.
    """
    target = np.take_along_axis(scores, wanted[:, None], axis=1)
    before = np.arange(scores.shape[1]) < wanted[:, None]
    ranks: NDArray[np.int64] = np.count_nonzero((scores > target) | ((scores == target) & before), axis=1)
    return ranks


def rank_head(logits: NDArray[np.float32], wanted: NDArray[np.int64], answered: NDArray[np.bool_]) -> Ranking:
    """Ranks the classes of a softmax head by its logits.

    Args:
        logits: ``[N, C]``; what stands in the rows of failed videos does not count.
        wanted: ``[N]``, the right class.
        answered: ``[N]``.
    """
    shares = log_softmax(logits[answered].astype(np.float64), axis=1)
    likelihood = np.take_along_axis(shares, wanted[answered, None], axis=1)[:, 0]
    return _rank(
        lambda rows: logits[answered][rows], wanted, answered, logits.shape[1], np.exp(shares.max(axis=1)), likelihood
    )


def rank_product(
    heads: Sequence[NDArray[np.float32]], wanted: Sequence[NDArray[np.int64]], answered: NDArray[np.bool_]
) -> Ranking:
    """Ranks the combinations of the heads' classes by the product of their probabilities.

    As `tubelet.averaging.product` orders them: the last head's classes fastest (arXiv:2103.15691, section 4.1).

    Args:
        heads: ``[N, Ch]`` logits of each head.
        wanted: ``[N]`` of each head.
        answered: ``[N]``.
    """
    logs = [log_softmax(logits[answered].astype(np.float64), axis=1) for logits in heads]
    sizes = [logits.shape[1] for logits in heads]
    combined = np.ravel_multi_index(tuple(wanted), sizes).astype(np.int64)
    shares = [np.exp(log) for log in logs]
    best = np.prod([share.max(axis=1) for share in shares], axis=0)
    likelihood = sum(
        np.take_along_axis(log, one[answered, None], axis=1)[:, 0] for log, one in zip(logs, wanted, strict=True)
    )

    def products(rows: slice) -> NDArray[np.float64]:
        return reduce(
            lambda one, other: (one[:, :, None] * other[:, None, :]).reshape(len(one), -1), [s[rows] for s in shares]
        )

    return _rank(products, combined, answered, int(np.prod(sizes)), best, np.asarray(likelihood))


def _rank(
    scores: Callable[[slice], Scores],
    wanted: NDArray[np.int64],
    answered: NDArray[np.bool_],
    num_classes: int,
    probability: NDArray[np.float64],
    log_likelihood: NDArray[np.float64],
) -> Ranking:
    """Ranks chunk by chunk; ``scores``, ``probability`` and ``log_likelihood`` are of the answered videos."""
    count = int(answered.sum())
    found, ranks = np.empty(count, np.int64), np.empty(count, np.int64)
    step = max(1, _CHUNK_NUMBERS // num_classes)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        chunk = scores(rows)
        found[rows] = chunk.argmax(axis=1)
        ranks[rows] = rank_of(wanted[answered][rows], chunk)
    return Ranking(
        num_classes=num_classes,
        wanted=wanted,
        found=_spread(found, answered, -1),
        rank=_spread(ranks, answered, NO_RANK),
        probability=_spread(probability, answered, np.nan),
        log_likelihood=_spread(log_likelihood, answered, np.nan),
    )


def _spread(values: NDArray[Any], answered: NDArray[np.bool_], missing: float) -> NDArray[Any]:
    """Values of the answered videos at their places among all: ``[n]`` -> ``[N]``."""
    spread = np.full(len(answered), missing, dtype=values.dtype)
    spread[answered] = values
    return spread
