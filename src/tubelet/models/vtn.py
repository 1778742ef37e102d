"""Video Transformer Network (arXiv:2102.00719), as released in bomri/SlowFast, ``slowfast/models``.

A backbone looks at single frames (section 3.1), a Longformer at their features (3.2), an MLP head at its class token
(3.3). The released code builds the ViT-B backbone only; the others are those of table 6. Of a DeiT with a distillation
token the paper does not say what is the feature: here it is timm's, the mean of both tokens'.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tubelet.models.longformer import Longformer, LongformerSizes
from tubelet.models.network import TwoStageVideoNetwork
from tubelet.models.resnet import ResnetImage, ResnetImageSizes
from tubelet.models.vit_image import VitImage, VitImageSizes

__all__ = ["Vtn", "VtnSizes", "VtnStates"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VtnSizes:
    """Sizes of a VTN; those of its temporal encoder and of its head go with the backbone's width."""

    num_frames: int
    """T, frames of a clip; other numbers may come."""
    crop_px: int
    """S, side of a frame."""
    backbone: VitImageSizes | ResnetImageSizes
    temporal: LongformerSizes
    head_width: int
    """Of the layer between temporal encoder and classes."""
    num_classes: int
    """C."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VtnStates:
    """What goes on in the temporal encoder, whose tokens are the class token and n frames."""

    embedding: Tensor
    """`[V, 1+n, D]`, before the first layer."""
    hidden: Tensor
    """`[V, layers, 1+n, D]`, after each layer."""
    class_attention: Tensor
    """`[V, layers, H, 1+n]`, where the class token looked."""


class Vtn(TwoStageVideoNetwork):
    """VTN. A unit is a frame; clips of any length can be classified.

    Differs from the paper: the window is the recipe's (18 in the released code, 32 in the paper).
    """

    takes_positions = True
    gives_attention = True
    takes_any_length = True

    def __init__(self, sizes: VtnSizes, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.sizes = sizes
        self.num_frames, self.unit_frames = sizes.num_frames, 1
        self.crop_px, self.num_classes, self.feature_dim = sizes.crop_px, sizes.num_classes, sizes.backbone.width
        width = sizes.backbone.width
        if isinstance(sizes.backbone, VitImageSizes):
            # Frames are looked at without dropout, as in the released configuration.
            self.backbone: VitImage | ResnetImage = VitImage(sizes.backbone, crop_px=sizes.crop_px)
        else:
            self.backbone = ResnetImage(sizes.backbone)
        self.temporal = Longformer(sizes.temporal, width=width, dropout=dropout)
        self.head = nn.Sequential(
            nn.LayerNorm(width),  # torch's epsilon of 1e-5, unlike all others
            nn.Linear(width, sizes.head_width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(sizes.head_width, sizes.num_classes),
        )

    def encode(self, units: Tensor) -> Tensor:
        """`units` float `[U, 1, S, S, 3]`, normalised RGB -> features `[U, D]`."""
        features: Tensor = self.backbone(units[:, 0])
        return features

    def classify(self, features: Tensor, positions: Tensor | None = None) -> Tensor:
        """`features` float `[V, n, D]`, `positions` int `[V, n]` -> logits `[V, C]`."""
        return self.attend(features, positions)[0]

    def attend(self, features: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `classify`, and the class token's attention on each frame.

        The attention is that of the last layer, its heads' mean. What the class token gives to itself is left out, so
        a row sums to less than 1.

        Args:
            features: float `[V, n, D]`.
            positions: int `[V, n]`, each frame's index in what was decoded of its video.

        Returns:
            Logits `[V, C]`, attention `[V, n]`.
        """
        seen, attention = self.temporal(features, positions)
        logits: Tensor = self.head(seen)
        return logits, attention[:, :, 1:].mean(dim=1)

    def states(self, features: Tensor, positions: Tensor | None = None) -> VtnStates:
        """Every layer's tokens and class attention; arguments as for `attend`."""
        hidden, attention = zip(*self.temporal.states(features, positions), strict=True)
        return VtnStates(
            embedding=self.temporal.embed(features, positions),
            hidden=torch.stack(hidden, dim=1),
            class_attention=torch.stack(attention, dim=1),
        )
