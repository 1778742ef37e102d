"""ViViT: A Video Vision Transformer (arXiv:2103.15691), as released in google-research/scenic, projects/vivit.

Variants so far: the factorised encoder (Model 2), `SpaceTimeViViT` in scenic's ``model.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tubelet.models.layers import Encoder

__all__ = ["FactorisedEncoder", "FactorisedEncoderSizes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FactorisedEncoderSizes:
    """Sizes of a factorised encoder; ViViT-B/16x2 FE is width 768, 12 heads, MLP 3072, 12 spatial layers."""

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
    mlp_width: int
    spatial_layers: int
    spatial_heads: int
    temporal_layers: int
    temporal_heads: int
    num_classes: int
    """C."""

    @property
    def num_tubelets(self) -> int:
        """n, temporal indices of a clip."""
        return self.num_frames // self.tubelet_frames

    @property
    def num_patches(self) -> int:
        return (self.crop_px // self.patch_px) ** 2


class FactorisedEncoder(nn.Module):
    """ViViT factorised encoder (section 3.3, Model 2): a spatial transformer per tubelet, then a temporal one.

    `encode` sees one temporal index at a time, so a served model runs it once for each distinct tubelet of a video and
    `classify` once for each view. Differs from the paper: tubelet weights are loaded, not inflated.
    """

    def __init__(self, sizes: FactorisedEncoderSizes, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.sizes = sizes
        kernel = (sizes.tubelet_frames, sizes.patch_px, sizes.patch_px)
        self.embedding = nn.Conv3d(3, sizes.width, kernel_size=kernel, stride=kernel)
        self.spatial = Encoder(
            width=sizes.width,
            num_tokens=sizes.num_patches,
            num_layers=sizes.spatial_layers,
            num_heads=sizes.spatial_heads,
            mlp_width=sizes.mlp_width,
            dropout=dropout,
        )
        self.temporal = Encoder(
            width=sizes.width,
            num_tokens=sizes.num_tubelets,
            num_layers=sizes.temporal_layers,
            num_heads=sizes.temporal_heads,
            mlp_width=sizes.mlp_width,
            dropout=dropout,
        )
        self.head = nn.Linear(sizes.width, sizes.num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """`clips` float `[B, T, S, S, 3]`, normalised RGB -> logits `[B, C]`."""
        batch, n = clips.shape[0], self.sizes.num_tubelets
        units = clips.reshape(batch * n, self.sizes.tubelet_frames, *clips.shape[2:])  # [B*n, t, S, S, 3]
        return self.classify(self.encode(units).view(batch, n, -1))

    def encode(self, units: Tensor) -> Tensor:
        """`units` float `[U, t, S, S, 3]`, normalised RGB -> features `[U, D]`."""
        tokens = self.embedding(units.permute(0, 4, 1, 2, 3))  # [U, D, 1, S/p, S/p]
        features: Tensor = self.spatial(tokens.flatten(2).transpose(1, 2))  # tokens in raster order, [U, N, D]
        return features

    def classify(self, features: Tensor) -> Tensor:
        """`features` float `[V, n, D]` -> logits `[V, C]`."""
        logits: Tensor = self.head(self.temporal(features))
        return logits
