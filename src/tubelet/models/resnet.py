"""ResNet (arXiv:1512.03385) with bottleneck blocks for single frames, without classifier; numbers are torchvision's.

Source: torchvision, ``torchvision/models/resnet.py`` (``resnet50``, ``resnet101``), whose names for the modules of a
block stay. Differs from the paper: a block strides in its 3x3 convolution, not in its first ("version 1.5").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["EXPANSION", "FrozenBatchNorm", "ResnetImage", "ResnetImageSizes"]

EXPANSION = 4
"""A block gives so many times the channels of its 3x3 convolution."""

BATCH_NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class ResnetImageSizes:
    """Sizes of a ResNet; ResNet-50 has a stem of 64, widths 64, 128, 256, 512 and 3, 4, 6, 3 blocks."""

    kind: Literal["resnet"]
    stem_width: int
    widths: tuple[int, ...]
    """Channels of the 3x3 convolutions, stage by stage."""
    num_blocks: tuple[int, ...]
    """Stage by stage."""

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.num_blocks) or min(self.num_blocks) < 1:
            raise ValueError(f"each stage has a width and at least one block, got {self.widths} and {self.num_blocks}")

    @property
    def width(self) -> int:
        """D, channels of the last stage."""
        return EXPANSION * self.widths[-1]


class ResnetImage(nn.Module):
    """Stem, stages of bottleneck blocks, the mean over all places."""

    def __init__(self, sizes: ResnetImageSizes) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, sizes.stem_width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm(sizes.stem_width)
        self.stages = nn.Sequential(*_stages(sizes))  # layer1, layer2, ... of torchvision

    def forward(self, frames: Tensor) -> Tensor:
        """`frames` float `[U, S, S, 3]`, normalised RGB -> features `[U, D]`."""
        maps = F.relu(self.bn1(self.conv1(frames.permute(0, 3, 1, 2))))
        maps = F.max_pool2d(maps, kernel_size=3, stride=2, padding=1)  # [U, stem_width, S/4, S/4]
        features: Tensor = self.stages(maps).mean(dim=(2, 3))
        return features


class FrozenBatchNorm(nn.Module):
    """Batch norm as it is at inference, in training too: by the running statistics, which stay as they are."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """`maps` float `[U, channels, h, w]` -> the same shape."""
        statistics = (self.running_mean, self.running_var, self.weight, self.bias)
        return F.batch_norm(maps, *statistics, training=False, eps=BATCH_NORM_EPS)


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions on a residual path."""

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = FrozenBatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = FrozenBatchNorm(width)
        self.conv3 = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = FrozenBatchNorm(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, FrozenBatchNorm(out_channels))

    def forward(self, maps: Tensor) -> Tensor:
        """`maps` float `[U, channels, h, w]` -> `[U, channels', h', w']`."""
        inner = F.relu(self.bn1(self.conv1(maps)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        return F.relu(self.bn3(self.conv3(inner)) + self.downsample(maps))


def _stages(sizes: ResnetImageSizes) -> Iterator[nn.Sequential]:
    channels = sizes.stem_width
    for i, (width, num_blocks) in enumerate(zip(sizes.widths, sizes.num_blocks, strict=True)):
        blocks = [_Bottleneck(channels, width, stride=1 if i == 0 else 2)]
        channels = EXPANSION * width
        blocks += [_Bottleneck(channels, width, stride=1) for _ in range(num_blocks - 1)]
        yield nn.Sequential(*blocks)
