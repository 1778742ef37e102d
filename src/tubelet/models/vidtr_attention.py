"""The attentions of VidTr (arXiv:2104.11746), as released in amazon-science/gluonmm, ``models/vidtr``.

Tokens come flat, `[B, X*Y, D]`: X times, Y places at each. Positions are added here, to what the attention reads, and
not to the tokens themselves; what else differs from the paper stands at each class.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from tubelet.models.layers import SelfAttention

__all__ = ["JointAttention", "PoolingAttention", "SeparableAttention", "keep_times"]


class JointAttention(SelfAttention):
    """Every token attends to all tokens (section 3.1).

    Differs from the paper, and from the other two attentions: values know no positions, only queries and keys do.
    """

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """`tokens` float `[B, M, D]`, `positions` float `[1, M, D]` -> `[B, M, D]`."""
        if positions is None:
            return super().forward(tokens)
        placed, heads = tokens + positions, (*tokens.shape[:2], self.num_heads, -1)
        query, key, value = (
            F.linear(source, weight, bias).view(heads).transpose(1, 2)  # [B, H, M, D/H]
            for source, weight, bias in zip(
                (placed, placed, tokens), self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True
            )
        )
        merged: Tensor = self.out(self.mix(query, key, value).transpose(1, 2).flatten(2))
        return merged


class SeparableAttention(SelfAttention):
    """Separable attention (section 3.2): values are mixed over time, place by place, and then over space.

    Differs from the paper, which projects twice: one projection serves both attentions, and the one over space has the
    queries and keys of the one over time.
    """

    def __init__(self, width: int, num_heads: int, *, num_times: int) -> None:
        super().__init__(width, num_heads)
        self.num_times = num_times

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """`tokens` float `[B, X*Y, D]`, `positions` float `[1, X*Y, D]` -> `[B, X*Y, D]`."""
        return super().forward(tokens if positions is None else tokens + positions)

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """MSA_s(MSA_t(S)) of the paper; each `[B, H, X*Y, D/H]` -> the same."""
        batch, num_heads, length, head_width = query.shape
        grid = (batch, num_heads, self.num_times, length // self.num_times, head_width)
        query, key, value = (part.reshape(grid).transpose(2, 3) for part in (query, key, value))  # [B, H, Y, X, D/H]
        return _over_space(query, key, _attend(query, key, value)).flatten(2, 3)


class PoolingAttention(SeparableAttention):
    """Separable attention that drops times: topK-std pooling (section 3.3).

    A row of the temporal attention that hardly differs from a mean over the clip says little, so the X' rows of
    largest standard deviation are kept, in the order of time. Differs from the paper: each head at each place keeps
    its own times; no class token has a row; the deviation divides by X - 1; the kept rows, a softmax already, go
    through a second one. Of rows whose deviations are equal, the runtime keeps which it likes.
    """

    def __init__(self, width: int, num_heads: int, *, num_times: int, num_kept: int) -> None:
        super().__init__(width, num_heads, num_times=num_times)
        self.num_kept = num_kept

    def pool(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Attends and drops.

        Args:
            tokens: float `[B, X*Y, D]`, their positions added where they are to be.

        Returns:
            `[B, X'*Y, D]`, and the times that each head kept at each place, rising: int64 `[B, H, Y, X']`.
        """
        batch, length, width = tokens.shape
        grid = (batch, self.num_times, length // self.num_times, 3, self.num_heads, width // self.num_heads)
        query, key, value = self.qkv(tokens).view(grid).permute(3, 0, 4, 2, 1, 5)  # each [B, H, Y, X, D/H]
        rows = (query @ key.transpose(3, 4) * query.shape[4] ** -0.5).softmax(dim=4)  # [B, H, Y, X, X]
        kept = self.deviation(rows).topk(self.num_kept, dim=3).indices.sort(dim=3).values
        mixed = _take(rows, kept).softmax(dim=4) @ value
        mixed = _over_space(_take(query, kept), _take(key, kept), mixed)  # [B, H, X', Y, D/H]
        pooled: Tensor = self.out(mixed.permute(0, 2, 3, 1, 4).reshape(batch, -1, width))
        return pooled, kept

    def deviation(self, rows: Tensor) -> Tensor:
        """How much each row of an attention differs from its mean: float `[..., X, X]` -> `[..., X]`."""
        return rows.std(dim=-1)


def keep_times(tokens: Tensor, kept: Tensor, *, num_times: int) -> Tensor:
    """The tokens at the times that were kept, each head's part by its own: float `[B, X*Y, D]` -> `[B, X'*Y, D]`."""
    batch, length, width = tokens.shape
    num_heads = kept.shape[1]
    grid = (batch, num_times, length // num_times, num_heads, width // num_heads)
    parts = tokens.reshape(grid).permute(0, 3, 2, 1, 4)  # [B, H, Y, X, D/H]
    return _take(parts, kept).permute(0, 3, 2, 1, 4).reshape(batch, -1, width)


def _take(parts: Tensor, kept: Tensor) -> Tensor:
    """`parts` `[B, H, Y, X, Z]` at times `[B, H, Y, X']` -> `[B, H, Y, X', Z]`."""
    return parts.gather(3, kept.unsqueeze(4).expand(-1, -1, -1, -1, parts.shape[4]))


def _over_space(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Each `[B, H, Y, X, D/H]` -> `[B, H, X, Y, D/H]`."""
    return _attend(query.transpose(2, 3), key.transpose(2, 3), value.transpose(2, 3))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax(Q K^T / sqrt(D/H)) V over the last axis but one of `[B, H, X, Y, D/H]`."""
    shape = query.shape
    query, key, value = (part.flatten(1, 2) for part in (query, key, value))  # [B, H*X, Y, D/H]
    return F.scaled_dot_product_attention(query, key, value).reshape(shape)
