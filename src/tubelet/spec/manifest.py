"""The promise of a bundle, in two rings.

`Contract` is everything that a caller can observe; it has a digest, and a model of another contract needs another
name. `Build` says where the numbers came from; it may change from one build to the next. No field that changes a
number has a default.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tubelet.spec.errors import ContractError
from tubelet.spec.protocol import Protocol
from tubelet.spec.strict import decode, digest, encode

__all__ = [
    "MANIFEST_FILE",
    "Budget",
    "Build",
    "Checkpoint",
    "Contract",
    "Crop",
    "Geometry",
    "Head",
    "Manifest",
    "Measurement",
    "Normalisation",
    "Resize",
    "Sampler",
]

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """Which frames of a video make a clip. ``kind`` names the pipeline that is reproduced."""

    kind: Literal["scenic"]
    num_frames: int
    """T, frames of a clip."""
    stride: int
    """Source frames from one frame of a clip to the next."""
    target_fps: float | None
    """Frame rate to which ``stride`` refers; None: the video's own."""
    short_video: Literal["wrap"]
    """What a video with too few frames does: ``wrap`` starts again from its first frame."""

    def __post_init__(self) -> None:
        _positive(num_frames=self.num_frames, stride=self.stride)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resize:
    """How a decoded frame is brought to its short side."""

    kind: Literal["scenic"]
    short_side_px: int
    kernel: Literal["bilinear"]
    antialias: bool
    on: Literal["uint8_truncated"]
    """What comes out: bytes, cut off rather than rounded."""

    def __post_init__(self) -> None:
        _positive(short_side_px=self.short_side_px)


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """The square windows that are cut from a resized frame."""

    kind: Literal["scenic"]
    size_px: int
    """S, side of the window."""

    def __post_init__(self) -> None:
        _positive(size_px=self.size_px)


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalisation:
    """``y = (x * scale - mean) / std`` on bytes x, per channel R, G, B, in float32."""

    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.scale <= 0 or min(self.std) <= 0:
            raise ValueError("scale and std must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """The network's sizes, read from the checkpoint's tensors."""

    unit_frames: int
    """t, frames of one unit: a tubelet of the factorised encoder."""
    patch_px: int
    feature_dim: int
    """D, width of FEATURES."""
    encoder_layers: int
    encoder_heads: int
    temporal_layers: int
    temporal_heads: int

    def __post_init__(self) -> None:
        _positive(**encode(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """One classifier: its classes in order, and what turns its logits into probabilities."""

    name: str
    num_classes: int
    activation: Literal["softmax", "sigmoid"]
    labels_sha256: str

    def __post_init__(self) -> None:
        _positive(num_classes=self.num_classes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """Everything that a caller can observe of a model."""

    schema_version: Literal[1]
    name: str
    family: Literal["vivit"]
    variant: Literal["factorised_encoder"]
    geometry: Geometry
    sampler: Sampler
    resize: Resize
    crop: Crop
    normalisation: Normalisation
    protocols: tuple[str, ...]
    default_protocol: str
    aggregation: Literal["mean_logits"]
    """How views become one answer: ``mean_logits`` averages before the activation."""
    heads: tuple[Head, ...]

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"a model's name is letters, digits and '_', got {self.name!r}")
        if not self.heads:
            raise ValueError("a model has at least one head")
        for protocol in self.protocols:
            Protocol.parse(protocol)
        if self.default_protocol not in self.protocols:
            raise ValueError(f"default_protocol {self.default_protocol!r} is not among {self.protocols}")
        if self.sampler.num_frames % self.geometry.unit_frames:
            raise ValueError("a clip's num_frames must be a multiple of unit_frames")
        if self.resize.short_side_px < self.crop.size_px:
            raise ValueError("crop.size_px exceeds resize.short_side_px")
        if self.crop.size_px % self.geometry.patch_px:
            raise ValueError("crop.size_px must be a multiple of patch_px")

    @property
    def num_classes(self) -> int:
        """C, classes of all heads together: the last axis of LOGITS."""
        return sum(head.num_classes for head in self.heads)

    @property
    def units_per_clip(self) -> int:
        """n, units that make one clip."""
        return self.sampler.num_frames // self.geometry.unit_frames

    @property
    def unit_shape(self) -> tuple[int, int, int, int]:
        """``[t, S, S, 3]``, one row of UNITS."""
        return self.geometry.unit_frames, self.crop.size_px, self.crop.size_px, 3

    @property
    def digest(self) -> str:
        return digest(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The file whose weights were built in."""

    format: Literal["scenic"]
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
    max_abs_logit: float
    cosine: float
    top1_agreement: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """Where a bundle's numbers came from."""

    checkpoint: Checkpoint
    num_parameters: int
    opset: int
    precision: Literal["fp32"]
    tools: dict[str, str]
    budget: Budget
    measured: tuple[Measurement, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What lies in a bundle's ``manifest.json``."""

    contract: Contract
    contract_digest: str
    build: Build

    def __post_init__(self) -> None:
        if self.contract_digest != self.contract.digest:
            raise ContractError(
                "contract_mismatch",
                f"the manifest of {self.contract.name} says {self.contract_digest}, "
                f"its contract gives {self.contract.digest}; export the bundle again",
            )

    @classmethod
    def load(cls, bundle: Path) -> Manifest:
        """Reads the manifest of a bundle's folder.

        Raises:
            ContractError: the folder holds no manifest, or one whose digest is wrong.
            RecipeError: the manifest has unknown, missing or unfit fields.
        """
        try:
            text = (bundle / MANIFEST_FILE).read_text(encoding="utf-8")
        except OSError as exc:
            raise ContractError(
                "contract_mismatch", f"{bundle} is no bundle: it has no {MANIFEST_FILE}; run tubelet export"
            ) from exc
        try:
            data = json.loads(text)
        except ValueError as exc:
            raise ContractError("contract_mismatch", f"{bundle / MANIFEST_FILE} is not JSON: {exc}") from exc
        return decode(cls, data, where="manifest")

    def save(self, bundle: Path) -> None:
        """Writes the manifest into a bundle's folder."""
        text = json.dumps(encode(self), indent=2, ensure_ascii=False, allow_nan=False)
        (bundle / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
