"""Longformer (arXiv:2004.05150) as VTN uses it: a class token that sees everything, frames that see their neighbours.

Sources: ``transformers/models/longformer/modeling_longformer.py``, and ``slowfast/models/video_model_builder.py`` of
bomri/SlowFast, which calls it. Differs: nothing is padded to a multiple of the window, since padding is masked and
changes no number; the band is computed in chunks (`window_attention`), so memory grows linearly with the frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tubelet.models.window_attention import window_attention
from tubelet.spec.bounds import MOST_WINDOW

__all__ = ["Longformer", "LongformerSizes", "Positions", "sinusoids"]

LAYER_NORM_EPS = 1e-12
"""Of BERT and its kin."""

LARGEST_TABLE = 2**26
"""Numbers in a table of sinusoids, which takes memory whatever is loaded; VTN's have fewer than 2**20."""

Positions = Literal["learned", "sinusoidal", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LongformerSizes:
    """Sizes of a temporal encoder; that of ViT-B-VTN has 3 layers with windows of 18, 12 heads, MLPs of 3072."""

    num_heads: int
    mlp_width: int
    attention_window: tuple[int, ...]
    """Frames that a frame sees, both sides together, layer by layer; even."""
    positions: Positions
    max_positions: int | None
    """Rows of the position table, of which the last two are no frame's; None: there is no table."""

    def __post_init__(self) -> None:
        if (self.positions == "none") != (self.max_positions is None):
            raise ValueError(f"max_positions is a number where there are positions, got {self.max_positions}")
        if any(window > MOST_WINDOW for window in self.attention_window):
            raise ValueError(f"attention_window must be at most {MOST_WINDOW}, got {self.attention_window}")
        if self.max_positions is not None and self.max_positions < 3:
            raise ValueError(f"max_positions must be at least 3, got {self.max_positions}")


class Longformer(nn.Module):
    """A class token and n frames through post-norm layers."""

    def __init__(self, sizes: LongformerSizes, *, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.embedding = _Embedding(sizes, width=width, dropout=dropout)
        self.layers = nn.ModuleList(
            _Layer(sizes, width=width, window=window, dropout=dropout) for window in sizes.attention_window
        )

    def forward(self, features: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the class token has seen, and where it looked in the last layer.

        Args:
            features: float `[V, n, D]`.
            positions: int `[V, n]`, indices of the frames in their video; not read where the sizes say ``"none"``.

        Returns:
            `[V, D]`, and attention `[V, H, 1+n]`, of which the first column is the class token's own.
        """
        tokens = self.embed(features, positions)
        for layer in self.layers[:-1]:
            tokens, _ = layer(tokens)
        # What frames see in the last layer, nobody looks at.
        seen, attention = self.layers[-1](tokens, class_token_only=True)
        return seen[:, 0], attention

    def embed(self, features: Tensor, positions: Tensor | None) -> Tensor:
        """The tokens that enter the first layer: as `forward` -> `[V, 1+n, D]`, the class token first."""
        tokens = torch.cat([self.class_token.expand(features.shape[0], -1, -1), features], dim=1)
        embedded: Tensor = self.embedding(tokens, positions)
        return embedded

    def states(self, features: Tensor, positions: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """All tokens after each layer, and where the class token looked: `[V, 1+n, D]`, `[V, H, 1+n]`."""
        tokens = self.embed(features, positions)
        for layer in self.layers:
            tokens, attention = layer(tokens)
            yield tokens, attention


class _Embedding(nn.Module):
    """Adds where a token stands and of which type it is, and normalises."""

    def __init__(self, sizes: LongformerSizes, *, width: int, dropout: float) -> None:
        super().__init__()
        self.max_positions = sizes.max_positions
        self.positions: nn.Module | None = None
        if sizes.max_positions is not None:
            table = nn.Embedding if sizes.positions == "learned" else _Sinusoids
            self.positions = table(sizes.max_positions, width)
        self.types = nn.Parameter(torch.empty(2, width).normal_(std=0.02))
        """Of frames, and of the class token."""
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor | None) -> Tensor:
        """`tokens` float `[V, 1+n, D]`, `positions` int `[V, n]` -> `[V, 1+n, D]`."""
        tokens = torch.cat([tokens[:, :1] + self.types[1], tokens[:, 1:] + self.types[0]], dim=1)
        if self.positions is not None and self.max_positions is not None:
            if positions is None:
                raise ValueError("positions of the frames are needed: this network looks them up in a table")
            last = self.max_positions - 2  # the class token's row; the one after it is that of padding
            rows = F.pad(positions.long() % last, (1, 0), value=last)  # [V, 1+n]
            tokens = tokens + self.positions(rows)
        normalised: Tensor = self.dropout(self.norm(tokens))
        return normalised


class _Sinusoids(nn.Module):
    """A table that is computed, not learned."""

    table: Tensor

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__()
        if num_rows * width > LARGEST_TABLE:
            raise ValueError(f"{num_rows} positions of width {width} are more than {LARGEST_TABLE} numbers")
        self.register_buffer("table", sinusoids(num_rows, width), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """`rows` int `[V, 1+n]` -> float `[V, 1+n, D]`."""
        return F.embedding(rows, self.table)


def sinusoids(num_rows: int, width: int) -> Tensor:
    """Sines and cosines in turn, of wavelengths from 2 pi to 20000 pi (arXiv:1706.03762, section 3.5): `[rows, D]`."""
    # The device is named, so that the numbers are there in a network that is built on the meta device.
    steps = torch.arange(0, width, 2, device="cpu", dtype=torch.float64) / width
    angles = torch.arange(num_rows, device="cpu", dtype=torch.float64)[:, None] / 10_000**steps
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width].float()


class _Layer(nn.Module):
    """Attention, then an MLP, each on a residual path that ends with a LayerNorm.

    The class token has queries, keys and values of its own ("global"); frames look at it with the local ones.
    """

    def __init__(self, sizes: LongformerSizes, *, width: int, window: int, dropout: float) -> None:
        super().__init__()
        if width % sizes.num_heads:
            raise ValueError(f"width {width} is not a multiple of {sizes.num_heads} heads")
        self.num_heads, self.reach = sizes.num_heads, window // 2
        self.qkv = nn.Linear(width, 3 * width)
        self.global_query = nn.Linear(width, width)
        self.global_key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, sizes.mlp_width), nn.GELU(), nn.Linear(sizes.mlp_width, width))
        self.mlp_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, *, class_token_only: bool = False) -> tuple[Tensor, Tensor]:
        """`tokens` float `[V, 1+n, D]` -> the same shape or `[V, 1, D]`, the class token's attention `[V, H, 1+n]`."""
        seen, attention = self._look(tokens)
        if class_token_only:
            return seen, attention
        query, key, value = self._heads(self.qkv(tokens), 3)
        mixed = window_attention(query[:, 1:], key, value, reach=self.reach)
        frames = self._transform(tokens[:, 1:], mixed)
        return torch.cat([seen, frames], dim=1), attention

    def _look(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The class token, which sees all tokens: `[V, 1+n, D]` -> `[V, 1, D]`, attention `[V, H, 1+n]`."""
        (query,) = self._heads(self.global_query(tokens[:, :1]), 1)
        key, value = self._heads(self.global_key_value(tokens), 2)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # each [V, H, N, D/H]
        attention = (query @ key.transpose(2, 3) * query.shape[3] ** -0.5).softmax(dim=3)  # [V, H, 1, 1+n]
        return self._transform(tokens[:, :1], (attention @ value).transpose(1, 2)), attention[:, :, 0]

    def _heads(self, projected: Tensor, count: int) -> tuple[Tensor, ...]:
        """`[V, N, count*D]` -> ``count`` of `[V, N, H, D/H]`."""
        batch, length, _ = projected.shape
        return projected.view(batch, length, count, self.num_heads, -1).unbind(dim=2)

    def _transform(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        """`tokens` `[V, N, D]` and what their attention gave, `[V, N, H, D/H]` -> `[V, N, D]`."""
        attended = self.attention_norm(tokens + self.dropout(self.out(mixed.flatten(2))))
        transformed: Tensor = self.mlp_norm(attended + self.dropout(self.mlp(attended)))
        return transformed
