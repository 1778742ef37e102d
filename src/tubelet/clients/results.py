"""What a caller gets back: plain frozen dataclasses, read from Triton's answer and checked against the contract."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tubelet.averaging import probabilities, product
from tubelet.clients.calls import Answer
from tubelet.spec.ensemble import EnsembleContract
from tubelet.spec.errors import ContractError
from tubelet.spec.manifest import Contract
from tubelet.spec.strict import encode

__all__ = ["AS_LABELS", "Classification", "Label", "Report", "read_classification", "read_report"]

_Number = TypeVar("_Number", np.float32, np.int32)

AS_LABELS = ("PROBABILITIES", "PRODUCT")
"""Tensors that are asked for as labels; all others of an answer as they are."""
_LABEL = re.compile(r"[^:]*:([0-9]+)(?::(.*))?", re.DOTALL)
"""``probability:index:name``; a class without a name has no third part, and a name may hold colons."""


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
    duration_s: float | None
    """Of the whole video, as far as its time stamps tell; None where there was no video, or they tell nothing."""
    contract_digest: str
    """Of the contract by which the answer was made."""
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

    Axes: V views, C classes of all heads together, K clips, T frames and n units of a clip, D width of a feature.
    """

    model: str
    labels: tuple[Label, ...]
    """The most probable classes, best first."""
    logits: NDArray[np.float32]
    """``[C]``, averaged over the views as the contract says."""
    view_logits: NDArray[np.float32]
    """``[V, C]``, clip-major; ``[0, C]`` of an answer without views."""
    frame_times: NDArray[np.float32] | None
    """``[K, T]``, seconds from the start of the video; None, here and below, of an answer without views, of models
    that answer together, each with its own, and of features, which have lost theirs."""
    clip_spans: NDArray[np.float32] | None
    """``[K, 2]``, when each clip begins and ends, in the same seconds."""
    attention: NDArray[np.float32] | None
    """``[V, n]``, how much the answer looked at each unit, where the model says it (VTN: its frames); else None."""
    product: tuple[Label, ...]
    """The most probable combinations of the heads' classes (Epic-Kitchens: actions), best first; empty without any."""
    features: NDArray[np.float32] | None
    """``[V, n, D]``, what the encoder made of each view's units, where it was asked for; see `classify_features`."""
    positions: NDArray[np.int32] | None
    """``[V, n]``, where the model was told that each of these units stood, where it is told."""
    report: Report
    round_trip_ms: float
    """From the call to the answer, measured by the client."""

    @property
    def network_ms(self) -> float:
        """What the server does not account for: both ways on the network, and waiting in queues."""
        return self.round_trip_ms - self.report.milliseconds["total"]

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON can hold, without features; numbers that are not finite become None."""
        data = {
            "model": self.model,
            "labels": encode(self.labels),
            "logits": self.logits.tolist(),
            "view_logits": self.view_logits.tolist(),
            "frame_times": None if self.frame_times is None else self.frame_times.tolist(),
            "clip_spans": None if self.clip_spans is None else self.clip_spans.tolist(),
            "attention": None if self.attention is None else self.attention.tolist(),
            "product": encode(self.product),
            "report": encode(self.report),
            "round_trip_ms": self.round_trip_ms,
            "network_ms": self.network_ms,
        }
        plain: dict[str, Any] = _plain(data)
        return plain


def read_classification(
    answer: Answer,
    *,
    contract: Contract | EnsembleContract,
    asked: Sequence[str],
    top: int,
    round_trip_ms: float,
) -> Classification:
    """Reads Triton's answer.

    Triton writes the probabilities of its labels with six decimals, so only names are taken from there; the numbers
    and the order come from LOGITS by the contract's activation, in float64. They equal PROBABILITIES but for float32
    rounding.

    Args:
        answer: with the tensors that were asked for, those of `AS_LABELS` as strings ``probability:index:name``.
        contract: gives the shapes and each head's activation.
        asked: names of the tensors, see `tubelet.spec.tensors.answer_names`.
        top: how many labels were asked for.
        round_trip_ms: as measured.

    Raises:
        ContractError: the answer lacks a tensor, one has another type or shape, LOGITS are not finite, or another
            contract than this made it.
    """
    logits = _floats(answer, "LOGITS", (contract.num_classes,))
    if not np.isfinite(logits).all():
        raise _unfit("has LOGITS that are not finite, from which no class follows")
    shares = probabilities(logits.astype(np.float64), contract.heads)
    product_labels: tuple[Label, ...] = ()
    if "PRODUCT" in asked:
        products = product(shares, contract.heads)
        product_labels = _labels(_names(answer, "PRODUCT"), products, products, top)
    return Classification(
        model=contract.name,
        # Logits tell apart what rounds to one probability, and the lower index goes first among equals, as with argmax.
        labels=_labels(_names(answer, "PROBABILITIES"), shares, logits, top),
        logits=logits,
        view_logits=_floats(answer, "VIEW_LOGITS", (None, contract.num_classes))
        if "VIEW_LOGITS" in asked
        else np.empty((0, contract.num_classes), np.float32),
        frame_times=_floats(answer, "FRAME_TIMES", (None, None)) if "FRAME_TIMES" in asked else None,
        clip_spans=_floats(answer, "CLIP_SPANS", (None, 2)) if "CLIP_SPANS" in asked else None,
        attention=_floats(answer, "ATTENTION", (None, None)) if "ATTENTION" in asked else None,
        features=_floats(answer, "FEATURES", (None, None, None)) if "FEATURES" in asked else None,
        positions=_numbers(answer, "POSITIONS", (None, None), np.int32) if "POSITIONS" in asked else None,
        product=product_labels,
        report=read_report(answer, _digest_of(contract)),
        round_trip_ms=round_trip_ms,
    )


def _labels(names: dict[int, str], shares: NDArray[np.float64], logits: NDArray[Any], top: int) -> tuple[Label, ...]:
    # Where Triton's float32 has a tie at the cut, the set that it names may differ from ours: it has the names.
    named = [index for index in names if index < len(shares)]
    ranked = sorted(named, key=lambda index: (-shares[index], -logits[index], index))
    return tuple(Label(name=names[i], index=i, probability=float(shares[i])) for i in ranked[:top])


def _floats(answer: Answer, name: str, shape: Sequence[int | None]) -> NDArray[np.float32]:
    return _numbers(answer, name, shape, np.float32)


def _numbers(answer: Answer, name: str, shape: Sequence[int | None], dtype: type[_Number]) -> NDArray[_Number]:
    array = answer.as_numpy(name)
    if array is None:
        raise _unfit(f"lacks {name}")
    fits = len(array.shape) == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        raise _unfit(f"has {name} as {array.dtype} {list(array.shape)}, expected {dtype.__name__} {list(shape)}")
    numbers: NDArray[_Number] = array
    return numbers


def _names(answer: Answer, tensor: str) -> dict[int, str]:
    strings = answer.as_numpy(tensor)
    if strings is None or strings.dtype != np.object_:
        raise _unfit(f"lacks {tensor} as labels")
    names = {}
    for string in strings.reshape(-1):
        found = _LABEL.fullmatch(string.decode("utf-8", "replace"))
        if found is None:
            raise _unfit("has a label that is not probability:index:name")
        names[int(found[1])] = found[2] or found[1]
    return names


@lru_cache(maxsize=64)
def _digest_of(contract: Contract | EnsembleContract) -> str:
    # Every answer is held against it.
    return contract.digest


def read_report(answer: Answer, digest: str) -> Report:
    """Reads an answer's REPORT alone.

    Args:
        answer: with the tensor REPORT.
        digest: of the contract by which it must have been made.

    Raises:
        ContractError: there is none, it cannot be read, or another contract made the answer.
    """
    text = answer.as_numpy("REPORT")
    if text is None:
        raise _unfit("lacks REPORT")
    try:
        data = json.loads(text.reshape(-1)[0])
        milliseconds = {str(step): float(value) for step, value in data["milliseconds"].items()}
        if "total" not in milliseconds:
            raise KeyError("total")
        # Keys that this version does not know are the server's to add; they change no number. A server of before
        # there were these two has neither; its contract was compared when it was asked for.
        duration_s, said = data.get("duration_s"), str(data.get("contract_digest", digest))
        report = Report(
            protocol=str(data["protocol"]),
            warnings=tuple(str(warning) for warning in data["warnings"]),
            milliseconds=milliseconds,
            duration_s=None if duration_s is None else float(duration_s),
            contract_digest=said,
            **{name: int(data[name]) for name in ("frames_decoded", "views", "units_wanted", "units_encoded")},
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
        raise _unfit(f"has a REPORT that cannot be read ({exc!r})") from exc
    if said != digest:
        raise ContractError(
            "contract_mismatch", f"the answer was made by contract {said}, but the model was known with {digest}"
        )
    return report


def _unfit(what: str) -> ContractError:
    return ContractError("contract_mismatch", f"the server's answer {what}; use the client of the server's version")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
