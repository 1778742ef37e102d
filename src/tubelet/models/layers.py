"""Transformer pieces that the papers share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Block", "Encoder", "SelfAttention"]

LAYER_NORM_EPS = 1e-6
"""Of scenic and timm; torch's default is 1e-5."""


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of {num_heads} heads")
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens` float `[B, N, D]` -> `[B, N, D]`."""
        batch, length, width = tokens.shape
        heads = (batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = self.qkv(tokens).view(heads).permute(2, 0, 3, 1, 4)  # each [B, H, N, D/H]
        mixed = F.scaled_dot_product_attention(query, key, value)  # scale 1/sqrt(D/H)
        merged: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return merged


class Block(nn.Module):
    """Pre-norm transformer block (arXiv:2103.15691, eq. 3-5): attention, then an MLP, each on a residual path."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attention = SelfAttention(width, num_heads)
        self.mlp_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        # flax.linen.gelu is the tanh approximation unless told otherwise; erf differs by up to 4.7e-4.
        self.mlp = nn.Sequential(nn.Linear(width, mlp_width), nn.GELU(approximate="tanh"), nn.Linear(mlp_width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens` float `[B, N, D]` -> `[B, N, D]`."""
        attended = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
        transformed: Tensor = attended + self.dropout(self.mlp(self.mlp_norm(attended)))
        return transformed


class Encoder(nn.Module):
    """Class token, learned positions, blocks and a last LayerNorm; gives the class token's row.

    Positions are added after the class token is put in front, so their table covers it (row 0).
    """

    def __init__(
        self,
        *,
        width: int,
        num_tokens: int,
        num_layers: int,
        num_heads: int,
        mlp_width: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, num_tokens + 1, width).normal_(std=0.02))
        self.blocks = nn.ModuleList(Block(width, num_heads, mlp_width, dropout=dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens` float `[B, N, D]` -> `[B, D]`."""
        class_token = self.class_token.expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([class_token, tokens], dim=1) + self.positions  # [B, 1+N, D]
        for block in self.blocks:
            tokens = block(tokens)
        # The norm is per token: normalising the one row that is kept gives the same numbers.
        normalised: Tensor = self.norm(tokens[:, 0])
        return normalised
