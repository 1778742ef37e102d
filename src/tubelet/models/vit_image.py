"""ViT (arXiv:2010.11929) and DeiT (arXiv:2012.12877) for single frames, without classifier; numbers are timm's.

Source: timm, ``timm/models/vision_transformer.py``, with ``num_classes=0``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tubelet.models.layers import LAYER_NORM_EPS, Block, SelfAttention

__all__ = ["VitImage", "VitImageSizes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VitImageSizes:
    """Sizes of an image transformer; ViT-B/16 has patches of 16, width 768, 12 layers and heads, MLPs of 3072."""

    kind: Literal["vit"]
    patch_px: int
    width: int
    """D."""
    num_layers: int
    num_heads: int
    mlp_width: int
    is_distilled: bool
    """Whether a distillation token stands beside the class token."""


class VitImage(nn.Module):
    """A class token and the patches of a frame go through pre-norm blocks; the class token's features come out.

    With a distillation token (DeiT), the mean of both tokens' features comes out, as timm has it in eval mode.
    """

    def __init__(self, sizes: VitImageSizes, *, crop_px: int, dropout: float = 0.0) -> None:
        super().__init__()
        width, patch_px = sizes.width, sizes.patch_px
        num_patches = (crop_px // patch_px) ** 2
        self.embedding = nn.Conv2d(3, width, kernel_size=patch_px, stride=patch_px)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, width)) if sizes.is_distilled else None
        self.num_tokens = 1 + sizes.is_distilled
        """Of those that are no patches."""
        self.positions = nn.Parameter(torch.empty(1, self.num_tokens + num_patches, width).normal_(std=0.02))
        self.blocks = nn.ModuleList(_ImageBlock(sizes, dropout=dropout) for _ in range(sizes.num_layers))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, frames: Tensor) -> Tensor:
        """`frames` float `[U, S, S, 3]`, normalised RGB -> features `[U, D]`."""
        patches = self.embedding(frames.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)  # [U, N, D]
        first: Tensor = self.class_token
        if self.distillation_token is not None:
            first = torch.cat([first, self.distillation_token], dim=1)
        tokens = torch.cat([first.expand(frames.shape[0], -1, -1), patches], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        features: Tensor = self.norm(tokens[:, : self.num_tokens]).mean(dim=1)
        return features


class _ImageBlock(Block):
    """The block of ViViT, but for its activation."""

    def __init__(self, sizes: VitImageSizes, *, dropout: float) -> None:
        attention = SelfAttention(sizes.width, sizes.num_heads)
        super().__init__(attention, width=sizes.width, mlp_width=sizes.mlp_width, dropout=dropout)
        # timm's GELU is the exact one, by the error function.
        self.mlp[1] = nn.GELU()
