"""From pixels to tokens, as ViViT does it (arXiv:2103.15691, section 3.2): tubelets, or patches of a few frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tubelet.models.vivit_sizes import TubeletSizes, UniformFrameSizes, uniform_frames

__all__ = ["TubeletEmbedding", "UniformFrameEmbedding"]


class TubeletEmbedding(nn.Conv3d):
    """Tubelet embedding: a linear map of tubelets that do not overlap, written as a 3-D convolution."""

    def __init__(self, sizes: TubeletSizes, width: int) -> None:
        kernel = (sizes.frames, sizes.patch_px, sizes.patch_px)
        super().__init__(3, width, kernel_size=kernel, stride=kernel)

    def forward(self, clips: Tensor) -> Tensor:
        """`clips` float `[B, T, S, S, 3]` -> tokens `[B, n, N, D]`, time first, then raster order."""
        tokens = super().forward(clips.permute(0, 4, 1, 2, 3))  # [B, D, n, h, w]
        return tokens.flatten(3).permute(0, 2, 3, 1)


class UniformFrameEmbedding(nn.Conv2d):
    """Uniform frame sampling: the patches of ViT, of a few frames of the clip."""

    def __init__(self, sizes: UniformFrameSizes, width: int, *, num_frames: int) -> None:
        super().__init__(3, width, kernel_size=sizes.patch_px, stride=sizes.patch_px)
        self.chosen = uniform_frames(num_frames, sizes.frames)

    def forward(self, clips: Tensor) -> Tensor:
        """`clips` float `[B, T, S, S, 3]` -> tokens `[B, n, N, D]`, time first, then raster order."""
        frames = clips.index_select(1, torch.tensor(self.chosen, device=clips.device))
        images = frames.flatten(0, 1).permute(0, 3, 1, 2)  # [B*n, 3, S, S]
        tokens = super().forward(images).flatten(2).transpose(1, 2)  # [B*n, N, D]
        return tokens.reshape(-1, len(self.chosen), *tokens.shape[1:])
