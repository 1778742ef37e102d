"""What a caller gets back: plain frozen dataclasses, read from Triton's answer and checked against the contract."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferResult

from tubelet.spec.errors import ContractError
from tubelet.spec.manifest import Contract, Head
from tubelet.spec.strict import encode

__all__ = ["OUTPUTS", "Classification", "Label", "Report", "read_classification"]

OUTPUTS = ("LOGITS", "VIEW_LOGITS", "FRAME_TIMES", "REPORT")
"""Tensors that are asked for as they are; PROBABILITIES is asked for as labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """One class of the answer."""

    name: str
    index: int
    """Its place on the last axis of the logits."""
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What the server says about how the answer came about."""

    protocol: str
    warnings: tuple[str, ...]
    """One sentence for each thing that was not as it should be, for example a video that breaks off."""
    frames_decoded: int
    views: int
    """V."""
    units_wanted: int
    """Encoder inputs that the views ask for, repetitions counted."""
    units_encoded: int
    """Those that were computed: each distinct one once."""
    milliseconds: dict[str, float]
    """Time by step (``decode``, ``resize``, ``units``, ``encoder``, ``average``), and ``total``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Classification:
    """The answer for one video.

    Axes: V views, C classes of all heads together, K clips, T frames of a clip.
    """

    model: str
    labels: tuple[Label, ...]
    """The most probable classes, best first."""
    logits: NDArray[np.float32]
    """``[C]``, averaged over the views as the contract says."""
    view_logits: NDArray[np.float32]
    """``[V, C]``, clip-major."""
    frame_times: NDArray[np.float32]
    """``[K, T]``, seconds from the start of the video."""
    report: Report
    round_trip_ms: float
    """From the call to the answer, measured by the client."""

    @property
    def network_ms(self) -> float:
        """What the server does not account for: both ways on the network, and waiting in queues."""
        return self.round_trip_ms - self.report.milliseconds["total"]

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON can hold; numbers that are not finite become None."""
        data = {
            "model": self.model,
            "labels": encode(self.labels),
            "logits": self.logits.tolist(),
            "view_logits": self.view_logits.tolist(),
            "frame_times": self.frame_times.tolist(),
            "report": encode(self.report),
            "round_trip_ms": self.round_trip_ms,
            "network_ms": self.network_ms,
        }
        plain: dict[str, Any] = _plain(data)
        return plain


def read_classification(answer: InferResult, *, contract: Contract, top: int, round_trip_ms: float) -> Classification:
    """Reads Triton's answer.

    Triton writes the probabilities of its labels with six decimals, so only names are taken from there; the numbers
    and the order come from LOGITS by the contract's activation, in float64. They equal PROBABILITIES but for float32
    rounding.

    Args:
        answer: with the tensors `OUTPUTS`, and PROBABILITIES as strings ``probability:index:name``.
        contract: gives the shapes and each head's activation.
        top: how many labels were asked for.
        round_trip_ms: as measured.

    Raises:
        ContractError: the answer lacks a tensor, one has another type or shape, or LOGITS are not finite.
    """
    logits = _floats(answer, "LOGITS", (contract.num_classes,))
    if not np.isfinite(logits).all():
        raise _unfit("has LOGITS that are not finite, from which no class follows")
    names = _names(answer)
    probabilities = _probabilities(logits, contract.heads)
    # Logits tell apart what rounds to one probability, and the lower index goes first among equals, as with argmax.
    order = np.lexsort((-logits, -probabilities))
    # Where Triton's float32 has a tie at the cut, the set that it names may differ from ours: it has the names.
    ranked = [int(index) for index in order if int(index) in names]
    return Classification(
        model=contract.name,
        labels=tuple(
            Label(name=names[index], index=index, probability=float(probabilities[index])) for index in ranked[:top]
        ),
        logits=logits,
        view_logits=_floats(answer, "VIEW_LOGITS", (None, contract.num_classes)),
        frame_times=_floats(answer, "FRAME_TIMES", (None, contract.sampler.num_frames)),
        report=_report(answer),
        round_trip_ms=round_trip_ms,
    )


def _floats(answer: InferResult, name: str, shape: Sequence[int | None]) -> NDArray[np.float32]:
    array = answer.as_numpy(name)
    if array is None:
        raise _unfit(f"lacks {name}")
    fits = len(array.shape) == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if array.dtype != np.float32 or not fits:
        raise _unfit(f"has {name} as {array.dtype} {list(array.shape)}, expected float32 {list(shape)}")
    floats: NDArray[np.float32] = array
    return floats


def _names(answer: InferResult) -> dict[int, str]:
    strings = answer.as_numpy("PROBABILITIES")
    if strings is None or strings.dtype != np.object_:
        raise _unfit("lacks PROBABILITIES as labels")
    names = {}
    for string in strings.reshape(-1):
        # A class without a name has no third part; a name may hold colons.
        found = re.fullmatch(r"[^:]*:([0-9]+)(?::(.*))?", string.decode("utf-8", "replace"), re.DOTALL)
        if found is None:
            raise _unfit("has a label that is not probability:index:name")
        names[int(found[1])] = found[2] or found[1]
    return names


def _probabilities(logits: NDArray[np.float32], heads: Sequence[Head]) -> NDArray[np.float64]:
    probabilities = np.empty(logits.shape, dtype=np.float64)
    first = 0
    for head in heads:
        part = slice(first, first + head.num_classes)
        probabilities[part] = _ACTIVATIONS[head.activation](logits[part].astype(np.float64))
        first = part.stop
    return probabilities


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max())
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum()
    return probabilities


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    # exp of a negative number only: it cannot overflow.
    small = np.exp(-np.abs(logits))
    probabilities: NDArray[np.float64] = np.where(logits >= 0, 1.0, small) / (1 + small)
    return probabilities


_ACTIVATIONS = {"softmax": _softmax, "sigmoid": _sigmoid}


def _report(answer: InferResult) -> Report:
    text = answer.as_numpy("REPORT")
    if text is None:
        raise _unfit("lacks REPORT")
    try:
        data = json.loads(text.reshape(-1)[0])
        milliseconds = {str(step): float(value) for step, value in data["milliseconds"].items()}
        if "total" not in milliseconds:
            raise KeyError("total")
        # Keys that this version does not know are the server's to add; they change no number.
        return Report(
            protocol=str(data["protocol"]),
            warnings=tuple(str(warning) for warning in data["warnings"]),
            milliseconds=milliseconds,
            **{name: int(data[name]) for name in ("frames_decoded", "views", "units_wanted", "units_encoded")},
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
        raise _unfit(f"has a REPORT that cannot be read ({exc!r})") from exc


def _unfit(what: str) -> ContractError:
    return ContractError("contract_mismatch", f"the server's answer {what}; use the client of the server's version")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
