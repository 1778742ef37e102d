"""What a comparison of two runs on the same list found: plain frozen dataclasses. A is the first run, B the second.

Differences are B minus A. A video that failed in a run counts as wrong there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tubelet.evaluation.result import Estimate
from tubelet.spec.strict import encode

__all__ = [
    "Agreement",
    "ClassChange",
    "ComparedRun",
    "Comparison",
    "LogitDistance",
    "McNemar",
    "MultiLabelComparison",
    "SingleLabelComparison",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRun:
    """One of the two."""

    folder: str
    """As it was given."""
    model: str
    protocol: str
    contract_digest: str
    num_failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class McNemar:
    """McNemar's exact test: could the videos on which only one run is right have fallen like this by chance?"""

    both_right: int
    only_a: int
    """Videos on which A is right and B is wrong."""
    only_b: int
    both_wrong: int
    p_value: float
    """Two-sided; of the sign test on ``only_a + only_b`` videos."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How often both name the same class first, right or wrong, over the videos that both answered."""

    num_videos: int
    share: float
    cohens_kappa: float | None
    """1: always; 0: as often as by chance. None: it is undefined, as both always name one and the same class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitDistance:
    """How far the logits of all heads are apart, over the videos that both answered."""

    num_videos: int
    mean_cosine: float
    lowest_cosine: float
    largest_difference: float
    """The largest absolute difference of a logit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassChange:
    """One class that fares otherwise in B than in A."""

    name: str
    support: int
    """Videos of this class in the list."""
    a: float
    """The class's top-1 in A; of a multi-label head its average precision."""
    b: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleLabelComparison:
    """A softmax head, or the product of several."""

    kind: Literal["single_label"]
    name: str
    top1_a: Estimate
    top1_b: Estimate
    difference: Estimate
    """Of top-1, with the interval of a paired bootstrap: both runs on the same drawn videos."""
    mcnemar: McNemar
    agreement: Agreement | None
    """None: no video was answered by both."""
    changes: tuple[ClassChange, ...]
    """The classes whose top-1 differs, the largest gain first, the largest loss last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiLabelComparison:
    """A sigmoid head."""

    kind: Literal["multi_label"]
    name: str
    map_a: Estimate
    """Mean average precision."""
    map_b: Estimate
    difference: Estimate
    """Of mean average precision, with the interval of a paired bootstrap."""
    changes: tuple[ClassChange, ...]
    """The classes whose average precision differs, the largest gain first, the largest loss last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two runs of the same list."""

    schema_version: Literal[1]
    a: ComparedRun
    b: ComparedRun
    num_videos: int
    heads: tuple[SingleLabelComparison | MultiLabelComparison, ...]
    product: SingleLabelComparison | None
    """None: one of the models has no product."""
    logits: LogitDistance | None
    """None: the models have other classes, or no video was answered by both."""

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON can hold."""
        data: dict[str, Any] = encode(self)
        return data
