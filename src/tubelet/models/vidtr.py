"""VidTr: Video Transformer Without Convolutions (arXiv:2104.11746), as released in amazon-science/gluonmm.

The repository's ``src/transformers/models/vidtr`` has ``VidTr`` (separable attention, and with ``MERGE_LATER`` the
joint attention of section 3.1) and ``CompactVidTr``. Where paper and released code differ, this is the code: norms
stand before attention and MLP, and positions are added to what an attention reads, never to the residual path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tubelet.models.network import VideoNetwork
from tubelet.models.vidtr_attention import JointAttention, PoolingAttention, SeparableAttention, keep_times

__all__ = ["CompactVidtr", "CompactVidtrSizes", "JointVidtr", "SeparableVidtr", "VidtrSizes"]

LAYER_NORM_EPS = 1e-5
"""Of gluonmm: torch's default."""

TIMES_PLACED_IN_EVERY_LAYER = 16
"""Networks of so many times, VidTr-M among them, add positions in every layer, all others in the first alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VidtrSizes:
    """Sizes of VidTr; VidTr-S has 8 frames of 224, patches of 1x16x16, width 768, 12 layers and heads, MLPs of 3072."""

    num_frames: int
    """T, frames of a clip."""
    patch_frames: int
    """t, frames of a patch; 1 in all that is released."""
    crop_px: int
    """S, side of a frame."""
    patch_px: int
    """Side of a patch."""
    width: int
    """D."""
    num_layers: int
    num_heads: int
    mlp_width: int
    activation: Literal["relu", "gelu"]
    """Of the MLP; the paper has gelu, the released code relu."""
    num_classes: int
    """C."""

    @property
    def num_times(self) -> int:
        """X, patches along time."""
        return self.num_frames // self.patch_frames

    @property
    def num_places(self) -> int:
        """Y, patches of a frame."""
        return (self.crop_px // self.patch_px) ** 2


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactVidtrSizes(VidtrSizes):
    """Sizes of C-VidTr; C-VidTr-S drops 2 of 8 times in each of layers 1, 3 and 5."""

    pool_layers: tuple[int, ...]
    """Layers that drop times, counted from 0, rising."""
    dropped_times: tuple[int, ...]
    """How many times each of them drops."""

    def __post_init__(self) -> None:
        last = self.pool_layers[-1] if self.pool_layers else -1
        if not 0 <= last < self.num_layers - 1:
            raise ValueError(
                f"after the last of pool_layers {list(self.pool_layers)} a layer must follow, where the class token "
                f"first sees the clip; there are {self.num_layers} layers, counted from 0"
            )
        if len(self.pool_layers) != len(self.dropped_times) or sum(self.dropped_times) >= self.num_times:
            raise ValueError(
                f"of {self.num_times} times one must be left, and each of pool_layers {list(self.pool_layers)} drops "
                f"some; they drop {list(self.dropped_times)}"
            )


class _Vidtr(VideoNetwork):
    """What all three share: the patch embedding, a final norm, and a head that reads the first token."""

    def __init__(self, sizes: VidtrSizes, blocks: list[nn.Module], *, num_tokens: int, dropout: float) -> None:
        super().__init__()
        self.num_frames = self.unit_frames = sizes.num_frames
        self.crop_px, self.num_classes = sizes.crop_px, sizes.num_classes
        patch = (sizes.patch_frames, sizes.patch_px, sizes.patch_px)
        self.embedding = nn.Conv3d(3, sizes.width, kernel_size=patch, stride=patch)
        self.positions = nn.Parameter(torch.zeros(1, num_tokens, sizes.width))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(sizes.width, sizes.num_classes)
        self.dropout = nn.Dropout(dropout)
        self.layers_with_positions = 1

    def embed(self, clips: Tensor) -> Tensor:
        """`clips` float `[B, T, S, S, 3]` -> patches `[B, X, Y, D]`."""
        patches = self.embedding(clips.permute(0, 4, 1, 2, 3))  # [B, D, X, h, w]
        return torch.movedim(patches.flatten(3), 1, 3)

    def tokens(self, clips: Tensor) -> Tensor:
        """Patches and class tokens as they enter the first block: float `[B, M, D]`, the class token to read first."""
        raise NotImplementedError

    def forward(self, clips: Tensor, positions: Tensor | None = None) -> Tensor:
        """`clips` float `[B, T, S, S, 3]`, normalised RGB -> logits `[B, C]`."""
        tokens = self.tokens(clips)
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, self.positions if i < self.layers_with_positions else None)
        logits: Tensor = self.head(self.dropout(self.norm(tokens[:, 0])))
        return logits


class SeparableVidtr(_Vidtr):
    """VidTr (section 3.2): a grid of X+1 times and Y+1 places, row 0 and column 0 of class tokens."""

    def __init__(self, sizes: VidtrSizes, *, dropout: float = 0.0) -> None:
        num_times, num_places, width = sizes.num_times + 1, sizes.num_places + 1, sizes.width
        blocks = [
            _Block(sizes, SeparableAttention(width, sizes.num_heads, num_times=num_times), dropout=dropout)
            for _ in range(sizes.num_layers)
        ]
        super().__init__(sizes, [*blocks], num_tokens=num_times * num_places, dropout=dropout)
        self.sizes = sizes
        self.layers_with_positions = _layers_with_positions(sizes)
        self.class_row = nn.Parameter(torch.zeros(1, num_places, width))
        """At time 0, for each place."""
        self.class_column = nn.Parameter(torch.zeros(sizes.num_times, 1, width))
        """At place 0, for each time of the clip."""

    def tokens(self, clips: Tensor) -> Tensor:
        """`clips` float `[B, T, S, S, 3]` -> `[B, (X+1)*(Y+1), D]`."""
        patches = self.embed(clips)
        batch = (patches.shape[0], -1, -1, -1)
        grid = torch.cat([self.class_column.unsqueeze(0).expand(batch), patches], dim=2)  # [B, X, Y+1, D]
        grid = torch.cat([self.class_row.unsqueeze(0).expand(batch), grid], dim=1)  # [B, X+1, Y+1, D]
        return grid.flatten(1, 2)


class JointVidtr(_Vidtr):
    """The vanilla transformer of section 3.1: one class token, and every token attends to all tokens of the clip."""

    def __init__(self, sizes: VidtrSizes, *, dropout: float = 0.0) -> None:
        blocks = [
            _Block(sizes, JointAttention(sizes.width, sizes.num_heads), dropout=dropout)
            for _ in range(sizes.num_layers)
        ]
        super().__init__(sizes, [*blocks], num_tokens=1 + sizes.num_times * sizes.num_places, dropout=dropout)
        self.sizes = sizes
        self.layers_with_positions = _layers_with_positions(sizes)
        self.class_token = nn.Parameter(torch.zeros(1, 1, sizes.width))

    def tokens(self, clips: Tensor) -> Tensor:
        """`clips` float `[B, T, S, S, 3]` -> `[B, 1 + X*Y, D]`."""
        return _with_class_token(self.class_token, self.embed(clips))


class CompactVidtr(_Vidtr):
    """C-VidTr (section 3.3): separable attention that drops times, then joint attention over what is left.

    Differs from the paper: one class token, which takes no part until the last times are dropped.
    """

    def __init__(self, sizes: CompactVidtrSizes, *, dropout: float = 0.0) -> None:
        dropped, num_times = dict(zip(sizes.pool_layers, sizes.dropped_times, strict=True)), sizes.num_times
        blocks: list[nn.Module] = []
        for i in range(sizes.num_layers):
            if i > sizes.pool_layers[-1]:
                blocks.append(_Block(sizes, JointAttention(sizes.width, sizes.num_heads), dropout=dropout))
            else:
                num_kept = num_times - dropped.get(i, 0)
                blocks.append(_CompactBlock(sizes, num_times=num_times, num_kept=num_kept, dropout=dropout))
                num_times = num_kept
        super().__init__(sizes, blocks, num_tokens=1 + sizes.num_times * sizes.num_places, dropout=dropout)
        self.sizes = sizes
        self.class_token = nn.Parameter(torch.zeros(1, 1, sizes.width))

    def tokens(self, clips: Tensor) -> Tensor:
        """`clips` float `[B, T, S, S, 3]` -> `[B, 1 + X*Y, D]`."""
        return _with_class_token(self.class_token, self.embed(clips))


class _Block(nn.Module):
    """Attention, then an MLP, each on a residual path that starts with a LayerNorm."""

    def __init__(self, sizes: VidtrSizes, attention: JointAttention | SeparableAttention, *, dropout: float) -> None:
        super().__init__()
        activation = nn.ReLU() if sizes.activation == "relu" else nn.GELU()
        self.attention_norm = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(sizes.width, sizes.mlp_width), activation, nn.Linear(sizes.mlp_width, sizes.width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """`tokens` float `[B, M, D]`, `positions` float `[1, M, D]` -> `[B, M, D]`."""
        return self.transform(tokens, self.attention(self.attention_norm(tokens), positions))

    def transform(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Adds what the attention gave, and runs the MLP."""
        attended = tokens + self.dropout(attended)
        transformed: Tensor = attended + self.dropout(self.mlp(self.mlp_norm(attended)))
        return transformed


class _CompactBlock(_Block):
    """A block whose class token stands aside, and which may drop times."""

    def __init__(self, sizes: CompactVidtrSizes, *, num_times: int, num_kept: int, dropout: float) -> None:
        width, num_heads = sizes.width, sizes.num_heads
        attention = (
            SeparableAttention(width, num_heads, num_times=num_times)
            if num_kept == num_times
            else PoolingAttention(width, num_heads, num_times=num_times, num_kept=num_kept)
        )
        super().__init__(sizes, attention, dropout=dropout)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """`tokens` float `[B, 1 + X*Y, D]`, `positions` float `[1, 1 + X*Y, D]` -> `[B, 1 + X'*Y, D]`."""
        placed = self.attention_norm(tokens) if positions is None else self.attention_norm(tokens) + positions
        aside, patches = placed[:, :1], placed[:, 1:]
        if isinstance(self.attention, PoolingAttention):
            attended, kept = self.attention.pool(patches)
            remaining = keep_times(tokens[:, 1:], kept, num_times=self.attention.num_times)
            tokens = torch.cat([tokens[:, :1], remaining], dim=1)
        else:
            attended = self.attention(patches)
        # The class token's own normalised vector, unprojected, takes the place of its attention.
        return self.transform(tokens, torch.cat([aside, attended], dim=1))


def _layers_with_positions(sizes: VidtrSizes) -> int:
    return sizes.num_layers if sizes.num_times == TIMES_PLACED_IN_EVERY_LAYER else 1


def _with_class_token(class_token: Tensor, patches: Tensor) -> Tensor:
    tokens = patches.flatten(1, 2)  # [B, X*Y, D]
    return torch.cat([class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
