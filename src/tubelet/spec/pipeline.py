"""How a video becomes the pixels that a network sees: the part of a contract that no checkpoint holds.

Each ``kind`` names the pipeline that is reproduced. No field has a default: each of them changes numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tubelet.spec.bounds import MOST_CLIP_FRAMES, MOST_FPS, MOST_NUMBERS, MOST_PX, within

__all__ = ["Crop", "FullVideo", "Normalisation", "Resize", "Sampler"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """Which frames of a video make a clip. ``kind`` names the pipeline that is reproduced."""

    kind: Literal["scenic", "pyslowfast", "gluonmm", "gluoncv_i3d"]
    num_frames: int
    """T, frames of a clip."""
    stride: int
    """Source frames from one frame of a clip to the next."""
    target_fps: float | None
    """Frame rate to which ``stride`` refers; None: the video's own. ``scenic``, ``gluonmm`` and ``gluoncv_i3d`` count
    in a video brought to this rate; ``pyslowfast`` stretches its clips by the video's rate over this one."""
    short_video: Literal["wrap", "repeat_last"]
    """What a video with too few frames does: ``wrap`` starts again from its first frame."""

    def __post_init__(self) -> None:
        within(MOST_CLIP_FRAMES, num_frames=self.num_frames)
        within(MOST_NUMBERS, stride=self.stride)
        if self.target_fps is not None:
            within(MOST_FPS, target_fps=self.target_fps)
        if (self.kind == "scenic") != (self.short_video == "wrap"):
            raise ValueError("short_video is wrap for the scenic sampler, and repeat_last for all others")
        if self.kind == "pyslowfast" and self.target_fps is None:
            raise ValueError("the pyslowfast sampler needs target_fps")


@dataclass(frozen=True, kw_only=True, slots=True)
class FullVideo:
    """The protocol ``full``: one clip over the whole video."""

    num_frames: int
    """Frames of the clip, evenly spaced (VTN: 250)."""
    span_s: float | None
    """Seconds from the start that are looked at (VTN's code: 10); None: to the end of the video, as in its paper."""

    def __post_init__(self) -> None:
        within(MOST_CLIP_FRAMES, num_frames=self.num_frames)
        if self.span_s is not None:
            within(MOST_NUMBERS, span_s=self.span_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resize:
    """How a decoded frame is brought to its short side."""

    kind: Literal["scenic", "pyslowfast", "gluonmm"]
    short_side_px: int
    """For protocols of one crop."""
    short_side_three_crops_px: int
    """For protocols of three crops; scenic has one number for both."""
    kernel: Literal["bilinear"]
    antialias: bool
    on: Literal["uint8_truncated", "uint8_rounded"]
    """What comes out: bytes, cut off (``scenic``) or rounded."""

    def __post_init__(self) -> None:
        within(MOST_PX, short_side_px=self.short_side_px, short_side_three_crops_px=self.short_side_three_crops_px)
        if self.antialias:
            raise ValueError("antialias must be false: none of the papers' pipelines has it")
        if (self.kind == "scenic") != (self.on == "uint8_truncated"):
            raise ValueError("on is uint8_truncated for the scenic resize, and uint8_rounded for all others")

    def short_side(self, num_crops: int) -> int:
        """Short side in pixels for a protocol of that many crops."""
        return self.short_side_px if num_crops == 1 else self.short_side_three_crops_px


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """The square windows that are cut from a resized frame."""

    kind: Literal["scenic", "pyslowfast", "gluonmm", "gluoncv_i3d"]
    size_px: int
    """S, side of the window."""

    def __post_init__(self) -> None:
        within(MOST_PX, size_px=self.size_px)


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalisation:
    """``y = (x * scale - mean) / std`` on bytes x, per channel R, G, B, in float32."""

    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.scale <= 0 or min(self.std) <= 0:
            raise ValueError("scale and std must be positive")
