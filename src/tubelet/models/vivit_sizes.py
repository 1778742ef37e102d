"""Sizes of ViViT's networks (arXiv:2103.15691): everything that is needed to build one, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tubelet.models.layers import Pooling
from tubelet.models.vivit_attention import AttentionOrder

__all__ = [
    "EncoderSizes",
    "FactorisedDotProductSizes",
    "FactorisedEncoderSizes",
    "FactorisedSelfAttentionSizes",
    "JointSizes",
    "TubeletSizes",
    "UniformFrameSizes",
    "uniform_frames",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class TubeletSizes:
    """Tubelets of ``frames x patch_px x patch_px`` pixels; what is left over at the end of an axis is not looked at."""

    kind: Literal["tubelet"]
    frames: int
    """t."""
    patch_px: int

    def grid(self, num_frames: int, crop_px: int) -> tuple[int, int]:
        """Tokens of a clip of square frames: how many along time, and how many at each time."""
        return num_frames // self.frames, (crop_px // self.patch_px) ** 2


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformFrameSizes:
    """Patches of ``patch_px x patch_px`` pixels of the frames that `uniform_frames` chooses."""

    kind: Literal["uniform_frames"]
    frames: int
    """How many are asked for (``n_sampled_frames``); `uniform_frames` may give one more."""
    patch_px: int

    def grid(self, num_frames: int, crop_px: int) -> tuple[int, int]:
        """Tokens of a clip of square frames: how many along time, and how many at each time."""
        return len(uniform_frames(num_frames, self.frames)), (crop_px // self.patch_px) ** 2


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSizes:
    """Sizes of a transformer; ViT-B has 12 layers, 12 heads, an MLP of 3072."""

    num_layers: int
    """L."""
    num_heads: int
    mlp_width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class JointSizes:
    """Sizes of Models 1, 3 and 4; ViViT-B/16x2 is width 768, tubelets of 2x16x16, and the encoder of ViT-B."""

    num_frames: int
    """T, frames of a clip."""
    crop_px: int
    """S, side of a frame."""
    embedding: TubeletSizes | UniformFrameSizes
    width: int
    """D."""
    encoder: EncoderSizes
    classifier: Pooling
    """What the head reads."""
    representation_width: int | None
    """Width of the layer between encoder and head; None: there is no such layer."""
    num_classes: int
    """C."""

    @property
    def grid(self) -> tuple[int, int]:
        """(n, N): tokens along time, and tokens at each time."""
        return self.embedding.grid(self.num_frames, self.crop_px)


@dataclass(frozen=True, kw_only=True, slots=True)
class FactorisedSelfAttentionSizes(JointSizes):
    """Sizes of Model 3."""

    attention_order: AttentionOrder


@dataclass(frozen=True, kw_only=True, slots=True)
class FactorisedDotProductSizes(JointSizes):
    """Sizes of Model 4; its number of heads is even."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FactorisedEncoderSizes:
    """Sizes of Model 2; ViViT-B/16x2 FE is width 768, a spatial ViT-B, and a temporal encoder of its widths."""

    num_frames: int
    """T, frames of a clip."""
    tubelet_frames: int
    """t, frames of a tubelet."""
    crop_px: int
    """S, side of a frame."""
    patch_px: int
    """Side of a tubelet."""
    width: int
    """D."""
    spatial: EncoderSizes
    temporal: EncoderSizes | None
    """None: the average-pool baseline."""
    classifier: Pooling
    """What both encoders give."""
    representation_width: int | None
    """Width of the layer between encoder and head; None: there is no such layer."""
    num_classes: int
    """C."""

    @property
    def num_tubelets(self) -> int:
        """n, temporal indices of a clip."""
        return self.num_frames // self.tubelet_frames

    @property
    def num_patches(self) -> int:
        """N, tokens of a temporal index."""
        return (self.crop_px // self.patch_px) ** 2


def uniform_frames(num_frames: int, count: int) -> tuple[int, ...]:
    """Indices of the frames that scenic's ``sample_frames_uniformly`` takes from a clip, in time order.

    T/(n+1), 2T/(n+1), ... below T, rounded half to even; every frame, if no more than ``count`` are there. Where
    T/(n+1) is no machine number, T itself may count as below T: then the last frame comes as one more.
    """
    if count >= num_frames:
        return tuple(range(num_frames))
    step = num_frames / (count + 1)
    # In float32, as scenic: where a multiple ends in .5, the error of its rounding decides.
    times = np.arange(step, num_frames, step, dtype=np.float32)
    return tuple(int(time) for time in np.minimum(np.round(times), num_frames - 1))
