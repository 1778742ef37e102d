"""Attention over one axis of a video's tokens: the blocks of ViViT's Models 3 and 4 (arXiv:2103.15691, section 3.3).

Tokens come flat, `[B, n*N, D]`: n times, N places at each.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tubelet.models.layers import LAYER_NORM_EPS, SelfAttention, feed_forward

__all__ = ["AttentionOrder", "FactorisedDotProductAttention", "FactorisedSelfAttentionBlock"]

AttentionOrder = Literal["time_space", "space_time"]
"""Which axis a block of Model 3 attends over first."""


class FactorisedSelfAttentionBlock(nn.Module):
    """Model 3 (eq. 4-6): attention over one axis, then over the other, then an MLP, each on a residual path.

    Differs from the paper, where space comes first: the released code knows both orders.
    """

    def __init__(
        self,
        *,
        num_times: int,
        width: int,
        num_heads: int,
        mlp_width: int,
        attention_order: AttentionOrder,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_times = num_times
        self.attention_order = attention_order
        self.time_attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.time_attention = SelfAttention(width, num_heads)
        self.space_attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.space_attention = SelfAttention(width, num_heads)
        self.mlp_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = feed_forward(width, mlp_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """`tokens` float `[B, n*N, D]` -> `[B, n*N, D]`."""
        if self.attention_order == "space_time":
            attended = self._over_time(self._over_space(tokens))  # (4), (5)
        else:
            attended = self._over_space(self._over_time(tokens))
        transformed: Tensor = attended + self.dropout(self.mlp(self.mlp_norm(attended)))  # (6)
        return transformed

    def _over_space(self, tokens: Tensor) -> Tensor:
        """z_s of the paper: the tokens of each time by themselves."""
        batch, length, width = tokens.shape
        by_time = tokens.reshape(batch * self.num_times, -1, width)  # [B*n, N, D]
        attended: Tensor = by_time + self.dropout(self.space_attention(self.space_attention_norm(by_time)))
        return attended.reshape(batch, length, width)

    def _over_time(self, tokens: Tensor) -> Tensor:
        """z_t of the paper: the tokens of each place by themselves."""
        batch, length, width = tokens.shape
        grid = (batch, self.num_times, length // self.num_times, width)
        by_place = tokens.reshape(grid).transpose(1, 2).flatten(0, 1)  # [B*N, n, D]
        attended: Tensor = by_place + self.dropout(self.time_attention(self.time_attention_norm(by_place)))
        return attended.reshape(batch, -1, self.num_times, width).transpose(1, 2).reshape(batch, length, width)


class FactorisedDotProductAttention(SelfAttention):
    """Model 4: the first half of the heads attends over time, the second over space.

    Y = Concat(Y_s, Y_t) W_O of the paper, in the order of the released code: Y_t comes first.
    """

    def __init__(self, width: int, num_heads: int, *, num_times: int) -> None:
        super().__init__(width, num_heads)
        if num_heads % 2:
            raise ValueError(f"half of the heads look at time and half at space, got {num_heads} heads")
        self.num_times = num_times

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Each `[B, H, n*N, D/H]` -> the same."""
        batch, num_heads, length, head_width = query.shape
        grid = (batch, num_heads, self.num_times, length // self.num_times, head_width)  # [B, H, n, N, D/H]
        half = num_heads // 2
        parts = [part.reshape(grid) for part in (query, key, value)]
        over_time = _attend([part[:, :half].transpose(2, 3) for part in parts]).transpose(2, 3)  # Y_t
        over_space = _attend([part[:, half:] for part in parts])  # Y_s
        return torch.cat([over_time, over_space], dim=1).reshape(batch, num_heads, length, head_width)


def _attend(parts: list[Tensor]) -> Tensor:
    """Attention over the last axis but one of `[B, H, X, Y, D/H]`: queries, keys, values -> the same."""
    batch, num_heads, rows, length, head_width = parts[0].shape
    query, key, value = (part.reshape(batch, num_heads * rows, length, head_width) for part in parts)
    mixed = F.scaled_dot_product_attention(query, key, value)
    return mixed.reshape(batch, num_heads, rows, length, head_width)
