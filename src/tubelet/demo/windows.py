"""Clips at random places of a video, to train on: their frames follow each other as those of a served clip do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tubelet.spec.manifest import Sampler

__all__ = ["Window", "random_window"]


@dataclass(frozen=True, slots=True)
class Window:
    """T frames of a video of N."""

    frames: NDArray[np.int64]
    """`[T]`, indices below N."""
    positions: NDArray[np.int64]
    """`[T]`, where the network is told that they stood."""


def random_window(rng: np.random.Generator, num_frames: int, *, fps: float, sampler: Sampler) -> Window:
    """Draws one clip; every start at which the video need not be prolonged is equally likely.

    Args:
        rng: source of the choice.
        num_frames: N.
        fps: of the video.
        sampler: length and stride of the clip, and what a video does that is too short.
    """
    return _WINDOWS[sampler.kind](rng, num_frames, fps, sampler)


def _wrapped(rng: np.random.Generator, num_frames: int, fps: float, sampler: Sampler) -> Window:
    start = rng.integers(0, max(0, num_frames - sampler.num_frames * sampler.stride) + 1)
    steps = sampler.stride * np.arange(sampler.num_frames)
    return Window((start + steps) % num_frames, steps)


def _staying(rng: np.random.Generator, num_frames: int, fps: float, sampler: Sampler) -> Window:
    start = rng.integers(0, max(0, num_frames - sampler.num_frames * sampler.stride) + 1)
    last = (num_frames - 1 - start) // sampler.stride
    steps = sampler.stride * np.minimum(np.arange(sampler.num_frames), last)
    return Window(start + steps, steps)


def _stretched(rng: np.random.Generator, num_frames: int, fps: float, sampler: Sampler) -> Window:
    """PySlowFast's clips last as long at every frame rate, and count their frames anew; ``tsn`` and ``full`` do not."""
    if sampler.target_fps is None:
        raise ValueError("the pyslowfast sampler needs target_fps")
    length = sampler.stride * sampler.num_frames / sampler.target_fps * fps
    start = rng.integers(0, int(max(0, num_frames - length)) + 1)
    spaced = np.linspace(0, length - 1, sampler.num_frames)
    steps = np.clip(spaced, 0, num_frames - 1 - start).astype(np.int64)
    return Window(start + steps, steps if rng.random() < 0.5 else start + steps)


_WINDOWS: dict[str, Callable[[np.random.Generator, int, float, Sampler], Window]] = {
    "scenic": _wrapped,
    "gluonmm": _staying,
    "pyslowfast": _stretched,
}
"""By the sampler's kind."""
