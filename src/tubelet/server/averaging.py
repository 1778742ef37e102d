"""How the views of a video become one answer, on the CPU; `average.onnx` is the same as a graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tubelet.spec.manifest import Contract

__all__ = ["average_views"]

Logits = NDArray[np.float32]


def average_views(view_logits: Logits, contract: Contract) -> tuple[Logits, Logits]:
    """Averages views as the contract says.

    Args:
        view_logits: ``[V, C]``.
        contract: gives each head's classes and activation.

    Returns:
        LOGITS ``[C]`` and PROBABILITIES ``[C]``, the heads one after the other.
    """
    logits = view_logits.mean(axis=0, dtype=np.float32)
    probabilities = np.empty_like(logits)
    first = 0
    for head in contract.heads:
        part = slice(first, first + head.num_classes)
        probabilities[part] = _ACTIVATIONS[head.activation](logits[part])
        first = part.stop
    return logits, probabilities


def _softmax(logits: Logits) -> Logits:
    exponentials: Logits = np.exp(logits - logits.max())
    probabilities: Logits = exponentials / exponentials.sum()
    return probabilities


def _sigmoid(logits: Logits) -> Logits:
    half = np.float32(0.5)
    probabilities: Logits = half + half * np.tanh(half * logits)  # the same number, and no overflow
    return probabilities


_ACTIVATIONS = {"softmax": _softmax, "sigmoid": _sigmoid}
