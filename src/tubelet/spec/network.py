"""What a checkpoint cannot say about its network, family by family.

Sizes are read from the tensors' shapes; what leaves no trace in a shape stands here: the number of heads where queries
are stored as one matrix, windows, pooling, the order of attention. ``"none"`` in a recipe (None here) means that the
checkpoint says it; a number that contradicts the checkpoint is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tubelet.spec.bounds import MOST_NUMBERS, MOST_WINDOW, within

__all__ = ["I3dNetwork", "Network", "VidtrNetwork", "VivitNetwork", "VtnNetwork"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VivitNetwork:
    """ViViT (arXiv:2103.15691); Model 1 to 4 of section 3.3."""

    family: Literal["vivit"]
    variant: Literal[
        "spatio_temporal",
        "factorised_encoder",
        "average_pool",
        "factorised_self_attention",
        "factorised_dot_product",
    ]
    """Model 1, Model 2, Model 2 without its temporal transformer, Model 3, Model 4."""
    classifier: Literal["token", "gap", "gmp", "gsp"]
    """What the head reads: the class token, or the mean, maximum or sum over the tokens."""
    attention_order: Literal["time_space", "space_time"] | None
    """Of Model 3; None for the others."""
    sampled_frames: int | None
    """Of uniform frame sampling (section 3.2), how many frames of a clip are asked for (``n_sampled_frames``): rounding
    gives one more of some clips, so their positions do not say it. None: tubelets."""
    num_heads: int | None
    """None: the checkpoint says it (scenic's do, Hugging Face's do not)."""

    def __post_init__(self) -> None:
        _positive_or_none(num_heads=self.num_heads, sampled_frames=self.sampled_frames)
        if self.sampled_frames is not None and self.variant in ("factorised_encoder", "average_pool"):
            raise ValueError("sampled_frames: a factorised encoder is served by units of successive frames")
        if (self.variant == "factorised_self_attention") != (self.attention_order is not None):
            raise ValueError("attention_order belongs to factorised_self_attention, and to it alone")
        if self.variant in ("factorised_self_attention", "factorised_dot_product") and self.classifier == "token":
            raise ValueError(f"{self.variant} has no class token: classifier must be gap, gmp or gsp")


@dataclass(frozen=True, kw_only=True, slots=True)
class VtnNetwork:
    """VTN (arXiv:2102.00719): a backbone for single frames, a Longformer over their features."""

    family: Literal["vtn"]
    variant: Literal["vit", "vit_distilled", "resnet"]
    """The backbone; ``vit`` is ViT and DeiT, ``vit_distilled`` DeiT with its distillation token."""
    backbone_heads: int | None
    """Attention heads of the backbone; None for ``resnet``."""
    temporal_heads: int
    attention_window: tuple[int, ...]
    """Frames that a frame sees, both sides together, layer by layer (``VTN.ATTENTION_WINDOW``); even."""
    positions: Literal["learned", "sinusoidal", "none"]
    max_positions: int | None
    """Rows of the position table; None: of the checkpoint's table, or there is none."""

    def __post_init__(self) -> None:
        _positive_or_none(backbone_heads=self.backbone_heads, temporal_heads=self.temporal_heads)
        if (self.variant == "resnet") != (self.backbone_heads is None):
            raise ValueError("backbone_heads is none for resnet, and a number for all others")
        if not self.attention_window or any(w % 2 or not 2 <= w <= MOST_WINDOW for w in self.attention_window):
            raise ValueError(
                f"attention_window is an even number up to {MOST_WINDOW} for each layer, got {self.attention_window}"
            )
        if (self.positions == "sinusoidal") != (self.max_positions is not None):
            raise ValueError("max_positions is a number for sinusoidal positions, and none for all others")
        if self.max_positions is not None and self.max_positions < 3:
            raise ValueError(f"max_positions must be at least 3, got {self.max_positions}")


@dataclass(frozen=True, kw_only=True, slots=True)
class VidtrNetwork:
    """VidTr (arXiv:2104.11746)."""

    family: Literal["vidtr"]
    variant: Literal["separable", "joint", "compact"]
    """VidTr (section 3.2), the vanilla transformer (3.1), C-VidTr with topK-std pooling (3.3)."""
    num_heads: int
    activation: Literal["relu", "gelu"]
    """Of the MLP: the released code says relu, the paper gelu."""
    pool_layers: tuple[int, ...]
    """Layers that drop frames, counted from 0, rising; of ``compact`` alone."""
    dropped_frames: tuple[int, ...]
    """How many frames each of them drops (``NUMBER_OF_KEYS``)."""

    def __post_init__(self) -> None:
        _positive_or_none(num_heads=self.num_heads)
        if (self.variant == "compact") != bool(self.pool_layers):
            raise ValueError("pool_layers belong to compact, and to it alone")
        if list(self.pool_layers) != sorted({layer for layer in self.pool_layers if layer >= 0}):
            raise ValueError(f"pool_layers must rise from 0 or more, got {self.pool_layers}")
        if len(self.dropped_frames) != len(self.pool_layers) or any(count < 1 for count in self.dropped_frames):
            raise ValueError("dropped_frames must name at least one frame for each of pool_layers")


@dataclass(frozen=True, kw_only=True, slots=True)
class I3dNetwork:
    """I3D with a slow ResNet-50, VidTr's partner in its ensembles; everything is in the checkpoint's shapes."""

    family: Literal["i3d"]
    variant: Literal["slow_resnet"]


Network = VivitNetwork | VtnNetwork | VidtrNetwork | I3dNetwork


def _positive_or_none(**values: int | None) -> None:
    within(MOST_NUMBERS, **{name: value for name, value in values.items() if value is not None})
