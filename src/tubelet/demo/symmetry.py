"""Ways to turn a clip into another whose class is known: mirrors, the transpose, time run backwards, other colours.

Each is one bit; all of them together turn every clip into one of 16 motions, so no direction is learnt better than
its mirror image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tubelet.demo.textures import Image

__all__ = ["SYMMETRIES", "Symmetry", "recolour", "transform"]


@dataclass(frozen=True, slots=True)
class Symmetry:
    """A transformation of square frames `[T, S, S, 3]`, and what becomes of the labels."""

    apply: Callable[[Image], Image]
    swaps: tuple[tuple[str, str], ...]

    def label(self, label: str) -> str:
        """The class of the transformed clip."""
        for one, other in self.swaps:
            if label in (one, other):
                return other if label == one else one
        return label


SIDEWAYS, UPRIGHT, TURN, ZOOM = (
    ("left", "right"),
    ("up", "down"),
    ("clockwise", "counter-clockwise"),
    ("grow", "shrink"),
)

SYMMETRIES = {
    "mirror": Symmetry(lambda frames: frames[:, :, ::-1], (SIDEWAYS, TURN)),
    "flip": Symmetry(lambda frames: frames[:, ::-1], (UPRIGHT, TURN)),
    "transpose": Symmetry(lambda frames: frames.transpose(0, 2, 1, 3), (("left", "up"), ("right", "down"), TURN)),
    "backwards": Symmetry(lambda frames: frames[::-1], (SIDEWAYS, UPRIGHT, TURN, ZOOM)),
}


def transform(rng: np.random.Generator, frames: Image, label: str) -> tuple[Image, str]:
    """Applies each symmetry with probability 1/2.

    Args:
        rng: source of the choices.
        frames: uint8 `[T, S, S, 3]`.
        label: one of `tubelet.demo.motion.LABELS`.

    Returns:
        Frames (a view) and label.
    """
    for symmetry, chosen in zip(SYMMETRIES.values(), rng.integers(0, 2, len(SYMMETRIES)), strict=True):
        if chosen:
            frames, label = symmetry.apply(frames), symmetry.label(label)
    return frames, label


def recolour(rng: np.random.Generator, frames: Image) -> Image:
    """Permutes the colour channels, and inverts half of the clips; motion has no colour."""
    frames = frames[..., rng.permutation(3)]
    return np.invert(frames) if rng.random() < 0.5 else frames
