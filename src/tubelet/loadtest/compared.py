"""What a comparison of two results found: plain frozen dataclasses. A is the first result, B the second.

Differences are of B against A: 0.2 is a fifth more. Those of errors are of shares: 0.002 is 0.2 points more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tubelet.spec.strict import encode

__all__ = ["ComparedFigure", "ComparedKind", "ComparedResult", "ComparedStep", "Comparison", "FigureName", "Unit"]

FigureName = Literal["p50", "p90", "p99", "mean", "errors", "rate", "highest rate"]
Unit = Literal["ms", "%", "/s"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedResult:
    """One of the two."""

    scenario: str
    """Its name."""
    url: str
    began_s: float
    """In seconds since 1970 (UTC)."""
    tubelet_version: str
    command: str
    processor: str
    offered_rate: float
    """Requests a second that became due; after a search, at the rate that it found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedFigure:
    """One figure in both, and what is to be thought of the difference.

    ``rate`` is of what became due in the measured time: answers to it, whenever they came, by the measured seconds.
    """

    name: FigureName
    unit: Unit
    a: float
    """In ``unit``, here and below; 0 as a highest rate: even the least rate breaks the promise."""
    b: float
    difference: float | None
    """Relative, but of ``errors``, where it is that of the shares; None: A is 0, and a relative one does not exist."""
    low: float | None
    """Of the difference, with 95 % of what chance does to two runs like these; None: cannot be told."""
    high: float | None
    is_changed: bool
    """Whether the difference is beyond noise."""
    is_worse: bool
    """Whether B's is worse, by however little."""
    is_regression: bool
    """Changed, worse, by more than the threshold, and beyond what chance does to one of so many figures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedKind:
    """One kind of request, or all together."""

    name: str
    """``all``: together."""
    figures: tuple[ComparedFigure, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedStep:
    """One model of Triton's in both, for whoever looks for the reason: means of a request, not judged."""

    name: str
    is_public: bool
    queue_a_ms: float | None
    """None, here and below: A's, or B's, has no such model."""
    queue_b_ms: float | None
    compute_a_ms: float | None
    compute_b_ms: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two results of the same scenario."""

    schema_version: Literal[1]
    threshold: float
    """How much worse B may be, as a share."""
    a: ComparedResult
    b: ComparedResult
    notes: tuple[str, ...]
    """What else differs between the two, and what makes their figures doubtful; sentences for people."""
    kinds: tuple[ComparedKind, ...]
    """``all`` first, then each kind where there are several."""
    is_same_load: bool
    """Whether both were measured at the same rate; where two searches ended at others, the kinds are not judged."""
    highest_rate: ComparedFigure | None
    """Of two searches; None: one of the results has none."""
    steps: tuple[ComparedStep, ...]

    @property
    def is_regression(self) -> bool:
        """Whether any figure is one."""
        kinds = any(figure.is_regression for kind in self.kinds for figure in kind.figures)
        return kinds or (self.highest_rate is not None and self.highest_rate.is_regression)

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON can hold, ``is_regression`` among it."""
        data: dict[str, Any] = encode(self)
        return {**data, "is_regression": self.is_regression}
