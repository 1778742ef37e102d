"""I3D, the slow ResNet of dmlc/gluon-cv (``i3d_slow.py``), which VidTr's ensembles average with.

A ResNet (arXiv:1512.03385) of bottlenecks whose convolutions look at several frames in its later stages, as in the slow
pathway of SlowFast (arXiv:1812.03982, table 1). Time is never strided: T frames stay T frames up to the last mean.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tubelet.models.network import VideoNetwork

__all__ = ["I3dSizes", "SlowResnet", "StageSizes"]

STEM_KERNEL_PX = 7
KERNEL_PX = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSizes:
    """Sizes of a stage; the first of a ResNet-50 has inner width 64, outer width 256 and three blocks."""

    inner_width: int
    outer_width: int
    kernel_frames: tuple[tuple[int, int], ...]
    """Block by block, the frames that its first and its second convolution see; (3, 1) where it is inflated."""

    def __post_init__(self) -> None:
        if not self.kernel_frames or any(frames % 2 == 0 for block in self.kernel_frames for frames in block):
            raise ValueError(f"a stage has blocks whose kernels span odd numbers of frames, got {self.kernel_frames}")


@dataclass(frozen=True, kw_only=True, slots=True)
class I3dSizes:
    """Sizes of I3D; the I3D50 of the VidTr paper has 8 frames of 224 and the four stages of ResNet-50."""

    num_frames: int
    """T, frames of a clip."""
    crop_px: int
    """S, side of a frame."""
    stem_width: int
    stem_kernel_frames: int
    stages: tuple[StageSizes, ...]
    num_classes: int
    """C."""

    def __post_init__(self) -> None:
        if not self.stages or self.stem_kernel_frames % 2 == 0:
            raise ValueError(
                f"there must be a stage, and a stem of an odd number of frames, got {self.stem_kernel_frames}"
            )


class SlowResnet(VideoNetwork):
    """The slow ResNet: a stem that halves the frames' sides twice, stages that halve them once each but the first."""

    def __init__(self, sizes: I3dSizes, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.sizes = sizes
        self.num_frames = self.unit_frames = sizes.num_frames
        self.crop_px, self.num_classes = sizes.crop_px, sizes.num_classes
        self.stem = _convolution(3, sizes.stem_width, frames=sizes.stem_kernel_frames, px=STEM_KERNEL_PX, stride_px=2)
        self.stem_norm = nn.BatchNorm3d(sizes.stem_width)
        self.relu = nn.ReLU()
        self.stem_pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.stages = nn.ModuleList()
        width = sizes.stem_width
        for i, stage in enumerate(sizes.stages):
            self.stages.append(_stage(stage, width, stride_px=2 if i else 1))
            width = stage.outer_width
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, sizes.num_classes)

    def forward(self, clips: Tensor, positions: Tensor | None = None) -> Tensor:
        """`clips` float `[B, T, S, S, 3]`, normalised RGB -> logits `[B, C]`."""
        maps = self.stem_pool(self.relu(self.stem_norm(self.stem(clips.permute(0, 4, 1, 2, 3)))))  # [B, D, T, h, w]
        for stage in self.stages:
            maps = stage(maps)
        logits: Tensor = self.head(self.dropout(maps.mean(dim=(2, 3, 4))))
        return logits


class Bottleneck(nn.Module):
    """Three convolutions to a narrower width and back, on a residual path (arXiv:1512.03385, figure 5)."""

    def __init__(self, width: int, sizes: StageSizes, *, kernel_frames: tuple[int, int], stride_px: int) -> None:
        super().__init__()
        inner, outer = sizes.inner_width, sizes.outer_width
        self.reduce = _convolution(width, inner, frames=kernel_frames[0], px=1)
        self.reduce_norm = nn.BatchNorm3d(inner)
        self.look = _convolution(inner, inner, frames=kernel_frames[1], px=KERNEL_PX, stride_px=stride_px)
        self.look_norm = nn.BatchNorm3d(inner)
        self.expand = _convolution(inner, outer, frames=1, px=1)
        self.expand_norm = nn.BatchNorm3d(outer)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride_px != 1 or width != outer:
            projection = _convolution(width, outer, frames=1, px=1, stride_px=stride_px)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm3d(outer))

    def forward(self, maps: Tensor) -> Tensor:
        """`maps` float `[B, D, T, h, w]` -> `[B, D', T, h', w']`."""
        narrow = self.relu(self.reduce_norm(self.reduce(maps)))
        narrow = self.relu(self.look_norm(self.look(narrow)))
        summed: Tensor = self.relu(self.expand_norm(self.expand(narrow)) + self.shortcut(maps))
        return summed


def _stage(sizes: StageSizes, width: int, *, stride_px: int) -> nn.Sequential:
    blocks = []
    for kernel_frames in sizes.kernel_frames:
        blocks.append(Bottleneck(width, sizes, kernel_frames=kernel_frames, stride_px=stride_px))
        width, stride_px = sizes.outer_width, 1
    return nn.Sequential(*blocks)


def _convolution(width: int, outer: int, *, frames: int, px: int, stride_px: int = 1) -> nn.Conv3d:
    """Keeps the number of frames, and the sides where the stride is 1; batch norm follows, so there is no bias."""
    return nn.Conv3d(
        width,
        outer,
        kernel_size=(frames, px, px),
        stride=(1, stride_px, stride_px),
        padding=(frames // 2, px // 2, px // 2),
        bias=False,
    )
