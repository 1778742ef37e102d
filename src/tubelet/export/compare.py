"""How far two computations of the same logits are apart: pure arithmetic on arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tubelet.spec.manifest import Budget, Contract, Measurement

__all__ = ["Logits", "compare", "within"]

Logits = NDArray[np.float32]
"""``[rows, C]``."""


def compare(
    found: Logits, expected: Logits, *, contract: Contract, stage: str, num_views: int, pooled: bool = False
) -> Measurement:
    """Measures how far apart two computations of the same rows are.

    Args:
        found: float32 ``[rows, C]``.
        expected: float32 ``[rows, C]``, from the torch network.
        contract: says where each head's classes lie; top-1 is taken per head.
        stage: how to call ``found``.
        num_views: that went into the rows.
        pooled: takes one cosine of all rows together, not the smallest of a row.

    Returns:
        Largest absolute difference, cosine, and share of rows and heads with the same best class; None where that is
        no number.
    """
    a, b = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # a NaN is a finding, and stays one
        difference = np.abs(a - b).max()
        cosine = _cosines(a.reshape(1, -1), b.reshape(1, -1)) if pooled else _cosines(a, b)
    pairs = zip(_by_head(found, contract), _by_head(expected, contract), strict=True)
    agreement = np.mean([(x.argmax(axis=1) == y.argmax(axis=1)).mean() for x, y in pairs])
    return Measurement(
        stage=stage,
        against="torch-fp32",
        num_views=num_views,
        max_abs_logit=_number(difference),
        cosine=_number(cosine.min()),
        top1_agreement=float(agreement),
    )


def within(budget: Budget, measured: Measurement) -> bool:
    """Whether a measurement keeps a budget; where no number came out, it does not."""
    if measured.max_abs_logit is None or measured.cosine is None:
        return False
    close = budget.max_abs_logit is None or measured.max_abs_logit <= budget.max_abs_logit
    return close and measured.cosine >= budget.min_cosine and measured.top1_agreement >= budget.min_top1_agreement


def _cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row, `[rows]`."""
    cosines: NDArray[np.float64] = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return cosines


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _by_head(logits: Logits, contract: Contract) -> list[Logits]:
    ends = np.cumsum([head.num_classes for head in contract.heads])
    return np.split(logits, ends[:-1], axis=1)
