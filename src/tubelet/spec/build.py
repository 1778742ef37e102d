"""Where a bundle's numbers came from, and what was found when they were held against the checkpoint's.

The second ring of a manifest; see `tubelet.spec.manifest`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tubelet.spec.bounds import MOST_LARGEST_BATCH, within
from tubelet.spec.engine import EngineName, Precision

__all__ = ["Budget", "Build", "Calibration", "Checkpoint", "CheckpointFormat", "Measurement", "Verification"]

CheckpointFormat = Literal["scenic", "huggingface", "slowfast", "gluonmm", "gluoncv", "tubelet"]
"""Who wrote a checkpoint file; ``tubelet``: our own safetensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The file whose weights were built in."""

    format: CheckpointFormat
    file: str
    """Its name, without a folder."""
    sha256: str
    source: str
    """Where its authors released it."""
    licence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How far two computations of the same logits may be apart; see `tubelet.spec.budgets` for the reasons."""

    max_abs_logit: float | None
    min_cosine: float
    min_top1_agreement: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What was found when one computation was held against another."""

    stage: str
    against: str
    num_views: int
    max_abs_logit: float | None
    """None, here and below: no number came out."""
    cosine: float | None
    """Of the row that is furthest off."""
    top1_agreement: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What `tubelet verify` found of one engine at one precision."""

    engine: EngineName
    precision: Precision
    version: str
    """Of the engine."""
    processor: str
    """On which it ran."""
    graphs_sha256: str
    """Of the graphs that ran; others are not verified by this."""
    num_clips: int
    """Real videos among what was compared."""
    budget: Budget
    passed: bool
    units_equal: bool
    """Whether ``units.onnx`` cut the very bytes that the server's step cuts."""
    measured: tuple[Measurement, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """On what ``encoder.int8.onnx`` was calibrated."""

    tool: str
    """Its name and version."""
    num_clips: int
    num_units: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """Where a bundle's numbers came from."""

    checkpoint: Checkpoint
    num_parameters: int
    opset: int
    largest_batch: int
    """Units in one run of the encoder, at most; verified, and kept by the server."""
    tools: dict[str, str]
    int8: Calibration | None
    """None: there is no ``encoder.int8.onnx``."""
    verified: tuple[Verification, ...]
    """One for each engine and precision that was looked at, whatever came out."""

    def __post_init__(self) -> None:
        within(MOST_LARGEST_BATCH, largest_batch=self.largest_batch)

    def has_passed(self, engine: EngineName, precision: Precision, *, graphs_sha256: str) -> bool:
        """Whether an engine computes with these graphs, at a precision, what the checkpoint computes."""
        wanted = engine, precision, graphs_sha256
        return any(v.passed for v in self.verified if (v.engine, v.precision, v.graphs_sha256) == wanted)

    def with_verified(self, found: Sequence[Verification]) -> Build:
        """The build with other findings, which replace older ones of the same engine and precision."""
        kept = {(v.engine, v.precision): v for v in (*self.verified, *found)}
        return replace(self, verified=tuple(kept[key] for key in sorted(kept)))
