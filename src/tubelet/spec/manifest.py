"""The promise of a bundle, in two rings.

`Contract` is everything that a caller can observe; it has a digest, and a model of another contract needs another
name. `Build` says where the numbers came from; it may change from one build to the next. No field that changes a
number has a default.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tubelet.spec.bounds import (
    MOST_CLIP_FRAMES,
    MOST_NUMBERS,
    check_head_name,
    check_model_name,
    within,
)
from tubelet.spec.build import Budget, Build, Calibration, Checkpoint, CheckpointFormat, Measurement, Verification
from tubelet.spec.errors import ContractError
from tubelet.spec.files import save_json
from tubelet.spec.network import Network
from tubelet.spec.pipeline import Crop, FullVideo, Normalisation, Resize, Sampler
from tubelet.spec.protocol import ANY_CLIPS, ANY_FULL, Protocol, is_allowed, listed
from tubelet.spec.strict import decode, digest

__all__ = [
    "MANIFEST_FILE",
    "Aggregation",
    "Budget",
    "Build",
    "Calibration",
    "Checkpoint",
    "CheckpointFormat",
    "Contract",
    "Geometry",
    "Head",
    "Manifest",
    "Measurement",
    "Resize",
    "Sampler",
    "Verification",
]

MANIFEST_FILE = "manifest.json"

Aggregation = Literal["mean_logits", "sum_logits", "mean_probabilities"]
"""How views become one answer: before the activation (``mean_logits`` of ViViT; ``sum_logits`` of VTN's code, whose
order of classes is the same), or after it (``mean_probabilities`` of VidTr and of VTN's paper)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """What the network's shape means for the tensors between the steps."""

    unit_frames: int
    """t, frames of one unit: 1 for VTN, a tubelet for the factorised encoder, the whole clip for joint models."""
    feature_dim: int | None
    """D, width of FEATURES; None: a joint model, whose encoder gives logits at once."""
    positions: bool
    """Whether the temporal stage is told where in the video each unit stood (CLIP_POSITIONS)."""
    attention: bool
    """Whether the temporal stage says how much it looked at each unit (ATTENTION)."""
    any_length: bool
    """Whether the temporal stage takes clips of any number of units, not only of the sampler's."""

    def __post_init__(self) -> None:
        within(MOST_CLIP_FRAMES, unit_frames=self.unit_frames)
        if self.feature_dim is not None:
            within(MOST_NUMBERS, feature_dim=self.feature_dim)
        elif self.positions or self.attention or self.any_length:
            raise ValueError("a joint model (feature_dim none) has no temporal stage")


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """One classifier: its classes in order, and what turns its logits into probabilities."""

    name: str
    num_classes: int
    activation: Literal["softmax", "sigmoid"]
    labels_sha256: str

    def __post_init__(self) -> None:
        check_head_name(self.name)
        within(MOST_NUMBERS, num_classes=self.num_classes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """Everything that a caller can observe of a model."""

    schema_version: Literal[1]
    name: str
    network: Network
    geometry: Geometry
    sampler: Sampler
    full_video: FullVideo | None
    """None: the model has no protocol ``full``."""
    resize: Resize
    crop: Crop
    normalisation: Normalisation
    protocols: tuple[str, ...]
    default_protocol: str
    aggregation: Aggregation
    heads: tuple[Head, ...]
    product: str | None
    """What the heads say together, the product of their probabilities: ``action`` of Epic-Kitchens' nouns and verbs;
    None: each head answers for itself."""

    def __post_init__(self) -> None:
        check_model_name(self.name)
        if not self.heads:
            raise ValueError("a model has at least one head")
        if self.product is not None and (len(self.heads) < 2 or any(h.activation != "softmax" for h in self.heads)):
            raise ValueError("product needs two or more heads, all of them softmax")
        self._check_protocols()
        self._check_sizes()

    def _check_protocols(self) -> None:
        if any(num_frames % self.geometry.unit_frames for num_frames in self._named_lengths):
            raise ValueError("the frames of a protocol like 'full64' must be a multiple of unit_frames")
        if len(set(self.protocols)) < len(self.protocols):
            raise ValueError(f"protocols name one twice: {', '.join(self.protocols)}")
        Protocol.parse(self.default_protocol)
        if not is_allowed(self.default_protocol, self.protocols):
            raise ValueError(
                f"default_protocol {self.default_protocol!r} is not among the protocols: {listed(self.protocols)}"
            )
        if any(protocol.startswith("full") for protocol in self.protocols) != (self.full_video is not None):
            raise ValueError("full_video is given when, and only when, protocols hold 'full', 'fullN' or one like it")
        if self.full_video is not None and not self.geometry.any_length:
            raise ValueError("this network takes clips of one length only; it has no protocol 'full'")

    def _check_sizes(self) -> None:
        if self.sampler.num_frames % self.geometry.unit_frames:
            raise ValueError("a clip's num_frames must be a multiple of unit_frames")
        if self.full_video is not None and self.full_video.num_frames % self.geometry.unit_frames:
            raise ValueError("full_video.num_frames must be a multiple of unit_frames")
        if self.is_joint and self.sampler.num_frames != self.geometry.unit_frames:
            raise ValueError("the unit of a joint model is its whole clip")
        if min(self.resize.short_side_px, self.resize.short_side_three_crops_px) < self.crop.size_px:
            raise ValueError("crop.size_px exceeds the short side of resize")

    @property
    def num_classes(self) -> int:
        """C, classes of all heads together: the last axis of LOGITS."""
        return sum(head.num_classes for head in self.heads)

    @property
    def num_products(self) -> int:
        """Combinations of one class of each head: the last axis of PRODUCT."""
        return math.prod(head.num_classes for head in self.heads)

    @property
    def is_joint(self) -> bool:
        """Whether one stage does it all: the encoder gives the logits of whole clips."""
        return self.geometry.feature_dim is None

    @property
    def units_per_clip(self) -> int:
        """n, units that make one clip of the sampler; ``full`` has its own number."""
        return self.sampler.num_frames // self.geometry.unit_frames

    @property
    def most_units_per_clip(self) -> int:
        """Units of the longest clip of a protocol with a name: `units_per_clip`, or those of ``full`` and its like."""
        full = 0 if self.full_video is None else self.full_video.num_frames
        return max(self.sampler.num_frames, full, *self._named_lengths) // self.geometry.unit_frames

    def num_units(self, protocol: Protocol) -> int:
        """Units that one of the model's protocols asks of a long video, at most."""
        if protocol.num_frames is not None:
            return protocol.num_frames // self.geometry.unit_frames
        if protocol.is_full:
            return self.most_units_per_clip
        return protocol.num_views * self.units_per_clip

    @property
    def _named_lengths(self) -> list[int]:
        """Frames of every ``full64`` among the protocols."""
        named = {*self.protocols, self.default_protocol} - {ANY_CLIPS, ANY_FULL}
        return [protocol.num_frames for protocol in map(Protocol.parse, named) if protocol.num_frames is not None]

    def allows(self, protocol: str) -> bool:
        """Whether the model has a protocol of that name."""
        return is_allowed(protocol, self.protocols)

    @property
    def unit_shape(self) -> tuple[int, int, int, int]:
        """``[t, S, S, 3]``, one row of UNITS."""
        return self.geometry.unit_frames, self.crop.size_px, self.crop.size_px, 3

    @property
    def digest(self) -> str:
        return digest(self)


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
        """Writes the manifest into a bundle's folder; who reads meanwhile sees the old one or the new one."""
        save_json(self, bundle / MANIFEST_FILE, indent=2)
