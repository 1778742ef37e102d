"""Transformer pieces of ViT (arXiv:2010.11929) that ViViT is made of; numbers are scenic's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LAYER_NORM_EPS", "Block", "Encoder", "Pooling", "SelfAttention", "feed_forward"]

LAYER_NORM_EPS = 1e-6
"""Of scenic and timm; torch's default is 1e-5."""

Pooling = Literal["token", "gap", "gmp", "gsp"]
"""What an encoder gives: its class token, or the mean, maximum or sum over its tokens."""


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
        mixed = self.mix(query, key, value)
        merged: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return merged

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Softmax(Q K^T / sqrt(D/H)) V, head by head (arXiv:2103.15691, eq. 7); each `[B, H, N, D/H]`."""
        return F.scaled_dot_product_attention(query, key, value)


def feed_forward(width: int, mlp_width: int) -> nn.Sequential:
    """The MLP of a block: two linear maps with a GELU between them."""
    # flax.linen.gelu is the tanh approximation unless told otherwise; erf differs by up to 4.7e-4.
    return nn.Sequential(nn.Linear(width, mlp_width), nn.GELU(approximate="tanh"), nn.Linear(mlp_width, width))


class Block(nn.Module):
    """Pre-norm transformer block (arXiv:2103.15691, eq. 2-3): attention, then an MLP, each on a residual path."""

    def __init__(self, attention: SelfAttention, *, width: int, mlp_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = feed_forward(width, mlp_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens` float `[B, N, D]` -> `[B, N, D]`."""
        attended = tokens + self.dropout(self.attention(self.attention_norm(tokens)))  # (2)
        transformed: Tensor = attended + self.dropout(self.mlp(self.mlp_norm(attended)))  # (3)
        return transformed


class Encoder(nn.Module):
    """Learned positions, blocks, a last LayerNorm and a pooling; a class token only where it is what is pooled.

    Positions are added after the class token is put in front (arXiv:2103.15691, eq. 1), so their table covers it
    (row 0).
    """

    def __init__(self, blocks: Iterable[nn.Module], *, width: int, num_tokens: int, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if pooling == "token" else None
        num_rows = num_tokens + (pooling == "token")
        self.positions = nn.Parameter(torch.empty(1, num_rows, width).normal_(std=0.02))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens` float `[B, N, D]` -> `[B, D]`."""
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)  # [B, 1+N, D]
        tokens = tokens + self.positions  # (1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.pool(tokens)

    def pool(self, tokens: Tensor) -> Tensor:
        """Normalises and pools: float `[B, N, D]` -> `[B, D]`."""
        if self.pooling == "token":
            tokens = tokens[:, 0]  # the norm is per token: normalising the one row that is kept gives the same numbers
        normalised: Tensor = self.norm(tokens)
        match self.pooling:
            case "token":
                return normalised
            case "gap":
                return normalised.mean(dim=1)
            case "gmp":
                return normalised.amax(dim=1)
            case "gsp":
                return normalised.sum(dim=1)
