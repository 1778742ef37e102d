"""How the views of a video become one answer, in NumPy; `average.onnx` is the same as a graph.

Whatever the aggregation, LOGITS are numbers whose activation gives PROBABILITIES, and a single view keeps its logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tubelet.spec.manifest import Aggregation, Head

__all__ = ["average_views", "probabilities", "product", "view_rows"]

Logits = NDArray[Any]
"""float32 or float64, and what comes out is the same; axes are named where it is used."""


def average_views(view_logits: Logits, aggregation: Aggregation, heads: Sequence[Head]) -> Logits:
    """Averages views as a contract says; their order changes no bit of the answer.

    Args:
        view_logits: ``[V, C]``, V at least 1.
        aggregation: before the activation, or after it.
        heads: give their classes and activations.

    Returns:
        LOGITS ``[C]``, the heads one after the other.
    """
    logits: Logits
    view_logits = _in_their_own_order(view_logits)
    if aggregation == "mean_logits":
        logits = view_logits.mean(axis=0, dtype=view_logits.dtype)
        return logits
    if aggregation == "sum_logits":
        logits = view_logits.sum(axis=0, dtype=view_logits.dtype)
        return logits
    return np.concatenate([_MEANS[head.activation](part) for head, part in _by_head(view_logits, heads)])


def _in_their_own_order(views: Logits) -> Logits:
    """``[V, C]``, the rows sorted by their bytes: sums are rounded as they go, so their order counts."""
    views = np.ascontiguousarray(views)
    rows = views.view(np.dtype((np.void, views.shape[1] * views.itemsize)))[:, 0]
    ordered: Logits = views[np.argsort(rows)]
    return ordered


def probabilities(logits: Logits, heads: Sequence[Head]) -> Logits:
    """The activation of each head: ``[..., C]`` -> ``[..., C]``."""
    parts = [_ACTIVATIONS[head.activation](part) for head, part in _by_head(logits, heads)]
    return np.concatenate(parts, axis=-1)


def product(probabilities: Logits, heads: Sequence[Head]) -> Logits:
    """Probabilities of every combination of the heads' classes, the last head's fastest: ``[C]`` -> ``[C1 * C2 ...]``.

    Epic-Kitchens' actions (arXiv:2103.15691, section 4.1): softmax of nouns times softmax of verbs.
    """
    return reduce(lambda one, other: np.outer(one, other).ravel(), [part for _, part in _by_head(probabilities, heads)])


def view_rows(clip_units: NDArray[np.int32], num_crops: int) -> NDArray[np.int64]:
    """Rows of the encoder's output for each view: ``[K, n]`` -> ``[K * R, n]``; crop r of unit u is row u * R + r."""
    crops = np.arange(num_crops)[None, :, None]
    rows: NDArray[np.int64] = clip_units.astype(np.int64)[:, None] * num_crops + crops  # [K, R, n]
    return rows.reshape(-1, clip_units.shape[1])


def _by_head(values: Logits, heads: Sequence[Head]) -> Iterator[tuple[Head, Logits]]:
    if len(heads) == 1:
        return zip(heads, (values,), strict=True)
    ends = np.cumsum([head.num_classes for head in heads])
    return zip(heads, np.split(values, ends[:-1], axis=-1), strict=True)


def _softmax(logits: Logits) -> Logits:
    exponentials: Logits = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Logits = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def _sigmoid(logits: Logits) -> Logits:
    small = np.exp(-np.abs(logits))  # of a negative number only: it cannot overflow
    result: Logits = np.where(logits >= 0, logits.dtype.type(1), small) / (1 + small)
    return result


_ACTIVATIONS = {"softmax": _softmax, "sigmoid": _sigmoid}


def _mean_softmax(logits: Logits) -> Logits:
    """``[V, C]`` -> logits ``[C]`` whose softmax is the mean of the views' softmax.

    Logits have one number that softmax does not see; the mean of the views' is given back to them.
    """
    height = logits.max(axis=1, keepdims=True)
    normaliser = height + np.log(np.exp(logits - height).sum(axis=1, keepdims=True))
    result: Logits = _log_mean_exp(logits - normaliser) + normaliser.mean(dtype=logits.dtype)
    return result


def _mean_sigmoid(logits: Logits) -> Logits:
    """``[V, C]`` -> logits ``[C]`` whose sigmoid is the mean of the views' sigmoid."""
    zero = logits.dtype.type(0)
    result: Logits = _log_mean_exp(-np.logaddexp(zero, -logits)) - _log_mean_exp(-np.logaddexp(zero, logits))
    return result


_MEANS = {"softmax": _mean_softmax, "sigmoid": _mean_sigmoid}


def _log_mean_exp(values: Logits) -> Logits:
    height = values.max(axis=0)
    result: Logits = height + np.log(np.exp(values - height).mean(axis=0, dtype=values.dtype))
    return result
