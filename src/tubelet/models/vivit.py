"""ViViT: A Video Vision Transformer (arXiv:2103.15691), as released in google-research/scenic, projects/vivit.

Section 3.3 has four models, and 4.2 a baseline; scenic's ``model.py`` has them as ``ViViT`` (Models 1, 3 and 4) and
``SpaceTimeViViT`` (Model 2 and the baseline). Where paper and released code differ, this is the code.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tubelet.models.layers import Block, Encoder, SelfAttention
from tubelet.models.network import TwoStageVideoNetwork, VideoNetwork
from tubelet.models.vivit_attention import FactorisedDotProductAttention, FactorisedSelfAttentionBlock
from tubelet.models.vivit_embedding import TubeletEmbedding, UniformFrameEmbedding
from tubelet.models.vivit_sizes import (
    EncoderSizes,
    FactorisedDotProductSizes,
    FactorisedEncoderSizes,
    FactorisedSelfAttentionSizes,
    JointSizes,
    TubeletSizes,
)

__all__ = [
    "FactorisedDotProduct",
    "FactorisedEncoder",
    "FactorisedSelfAttention",
    "JointVivit",
    "Representation",
    "SpatioTemporal",
    "build",
]


class JointVivit(VideoNetwork):
    """What Models 1, 3 and 4 share: embedding, one encoder over all tokens of a clip, head. They differ in its blocks.

    Differs from the paper: tubelet weights are loaded, not inflated.
    """

    def __init__(self, sizes: JointSizes, blocks: Iterator[nn.Module]) -> None:
        super().__init__()
        self.sizes = sizes
        self.num_frames = self.unit_frames = sizes.num_frames
        self.crop_px, self.num_classes = sizes.crop_px, sizes.num_classes
        if isinstance(sizes.embedding, TubeletSizes):
            self.embedding: TubeletEmbedding | UniformFrameEmbedding = TubeletEmbedding(sizes.embedding, sizes.width)
        else:
            self.embedding = UniformFrameEmbedding(sizes.embedding, sizes.width, num_frames=sizes.num_frames)
        n, num_places = sizes.grid
        self.encoder = Encoder(blocks, width=sizes.width, num_tokens=n * num_places, pooling=sizes.classifier)
        self.representation, self.head = _representation_and_head(sizes)

    def forward(self, clips: Tensor, positions: Tensor | None = None) -> Tensor:
        """`clips` float `[B, T, S, S, 3]`, normalised RGB -> logits `[B, C]`."""
        tokens = self.embedding(clips).flatten(1, 2)  # [B, n*N, D]
        logits: Tensor = self.head(self.representation(self.encoder(tokens)))
        return logits


class SpatioTemporal(JointVivit):
    """Model 1, spatio-temporal attention: every token attends to all tokens of the clip."""

    def __init__(self, sizes: JointSizes, *, dropout: float = 0.0) -> None:
        super().__init__(sizes, _blocks(sizes.width, sizes.encoder, dropout))


class FactorisedSelfAttention(JointVivit):
    """Model 3, factorised self-attention: each block attends over space and over time, one after the other."""

    def __init__(self, sizes: FactorisedSelfAttentionSizes, *, dropout: float = 0.0) -> None:
        _refuse_class_token(sizes)
        num_times, _ = sizes.grid
        blocks = (
            FactorisedSelfAttentionBlock(
                num_times=num_times,
                width=sizes.width,
                num_heads=sizes.encoder.num_heads,
                mlp_width=sizes.encoder.mlp_width,
                attention_order=sizes.attention_order,
                dropout=dropout,
            )
            for _ in range(sizes.encoder.num_layers)
        )
        super().__init__(sizes, blocks)


class FactorisedDotProduct(JointVivit):
    """Model 4, factorised dot-product attention: some heads attend over time, the others over space."""

    def __init__(self, sizes: FactorisedDotProductSizes, *, dropout: float = 0.0) -> None:
        _refuse_class_token(sizes)
        num_times, _ = sizes.grid
        encoder, width = sizes.encoder, sizes.width
        blocks = (
            Block(
                FactorisedDotProductAttention(width, encoder.num_heads, num_times=num_times),
                width=width,
                mlp_width=encoder.mlp_width,
                dropout=dropout,
            )
            for _ in range(encoder.num_layers)
        )
        super().__init__(sizes, blocks)


class FactorisedEncoder(TwoStageVideoNetwork):
    """Model 2, factorised encoder: a spatial transformer per tubelet, then a temporal one over what it gave.

    `encode` sees one temporal index at a time, so a served model runs it once for each distinct tubelet of a video and
    `classify` once for each view. Differs from the paper: tubelet weights are loaded, not inflated.
    """

    def __init__(self, sizes: FactorisedEncoderSizes, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.sizes = sizes
        self.num_frames, self.unit_frames = sizes.num_frames, sizes.tubelet_frames
        self.crop_px, self.num_classes, self.feature_dim = sizes.crop_px, sizes.num_classes, sizes.width
        tubelets = TubeletSizes(kind="tubelet", frames=sizes.tubelet_frames, patch_px=sizes.patch_px)
        self.embedding = TubeletEmbedding(tubelets, sizes.width)
        self.spatial = Encoder(
            _blocks(sizes.width, sizes.spatial, dropout),
            width=sizes.width,
            num_tokens=sizes.num_patches,
            pooling=sizes.classifier,
        )
        if sizes.temporal is not None:
            self.temporal: Encoder | None = Encoder(
                _blocks(sizes.width, sizes.temporal, dropout),
                width=sizes.width,
                num_tokens=sizes.num_tubelets,
                pooling=sizes.classifier,
            )
        else:
            self.temporal = None
        self.representation, self.head = _representation_and_head(sizes)

    def encode(self, units: Tensor) -> Tensor:
        """`units` float `[U, t, S, S, 3]`, normalised RGB -> features `[U, D]`."""
        tokens = self.embedding(units).flatten(1, 2)  # [U, N, D]
        features: Tensor = self.spatial(tokens)
        return features

    def classify(self, features: Tensor, positions: Tensor | None = None) -> Tensor:
        """`features` float `[V, n, D]` -> logits `[V, C]`."""
        pooled = features.mean(dim=1) if self.temporal is None else self.temporal(features)
        logits: Tensor = self.head(self.representation(pooled))
        return logits


def build(sizes: JointSizes | FactorisedEncoderSizes) -> JointVivit | FactorisedEncoder:
    """The network that these sizes belong to."""
    match sizes:
        case FactorisedEncoderSizes():
            return FactorisedEncoder(sizes)
        case FactorisedSelfAttentionSizes():
            return FactorisedSelfAttention(sizes)
        case FactorisedDotProductSizes():
            return FactorisedDotProduct(sizes)
        case _:
            return SpatioTemporal(sizes)


def _blocks(width: int, sizes: EncoderSizes, dropout: float) -> Iterator[Block]:
    for _ in range(sizes.num_layers):
        attention = SelfAttention(width, sizes.num_heads)
        yield Block(attention, width=width, mlp_width=sizes.mlp_width, dropout=dropout)


class Representation(nn.Linear):
    """The layer between encoder and head, ``pre_logits``: a linear map, then tanh."""

    def forward(self, pooled: Tensor) -> Tensor:
        """`pooled` float `[B, D]` -> `[B, representation_width]`."""
        return torch.tanh(super().forward(pooled))


def _representation_and_head(sizes: JointSizes | FactorisedEncoderSizes) -> tuple[nn.Module, nn.Linear]:
    if sizes.representation_width is None:
        return nn.Identity(), nn.Linear(sizes.width, sizes.num_classes)
    representation = Representation(sizes.width, sizes.representation_width)
    return representation, nn.Linear(sizes.representation_width, sizes.num_classes)


def _refuse_class_token(sizes: JointSizes) -> None:
    if sizes.classifier == "token":
        raise ValueError("a class token stands at no time and no place: Models 3 and 4 pool by gap, gmp or gsp")
