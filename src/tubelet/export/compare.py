"""How far two computations of the same logits are apart: pure arithmetic on arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tubelet.spec.manifest import Budget, Contract, Measurement

__all__ = ["Logits", "compare", "within"]

Logits = NDArray[np.float32]
"""``[rows, C]``."""


def compare(found: Logits, expected: Logits, *, contract: Contract, stage: str, num_views: int) -> Measurement:
    """Measures how far apart two computations of the same rows are.

    Args:
        found: float32 ``[rows, C]``.
        expected: float32 ``[rows, C]``, from the torch network.
        contract: says where each head's classes lie; top-1 is taken per head.
        stage: how to call ``found``.
        num_views: that went into the rows.

    Returns:
        Largest absolute difference, smallest cosine of a row, and share of rows and heads with the same best class.
    """
    a, b = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # a NaN is a finding, and stays one
        difference = np.abs(a - b).max()
        cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    pairs = zip(_by_head(found, contract), _by_head(expected, contract), strict=True)
    agreement = np.mean([(x.argmax(axis=1) == y.argmax(axis=1)).mean() for x, y in pairs])
    return Measurement(
        stage=stage,
        against="torch-fp32",
        num_views=num_views,
        max_abs_logit=float(difference),
        cosine=float(cosines.min()),
        top1_agreement=float(agreement),
    )


def within(budget: Budget, measured: Measurement) -> bool:
    """Whether a measurement keeps a budget; one that is not a number does not."""
    close = budget.max_abs_logit is None or measured.max_abs_logit <= budget.max_abs_logit
    return close and measured.cosine >= budget.min_cosine and measured.top1_agreement >= budget.min_top1_agreement


def _by_head(logits: Logits, contract: Contract) -> list[Logits]:
    ends = np.cumsum([head.num_classes for head in contract.heads])
    return np.split(logits, ends[:-1], axis=1)
