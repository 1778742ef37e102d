"""Motion clips in memory, as the network meets them: decoded and resized by the code that serves, then cropped."""

from __future__ import annotations

import csv
import functools
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from av.video.frame import VideoFrame
from torch import Tensor

from tubelet.demo.motion import LABELS
from tubelet.demo.symmetry import recolour, transform
from tubelet.demo.textures import Image
from tubelet.preprocess.container import open_video
from tubelet.preprocess.decode import RgbConverter, read_frames
from tubelet.preprocess.geometry import resize_frame
from tubelet.preprocess.guard import Guard
from tubelet.preprocess.normalise import normalise
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Resize
from tubelet.spec.recipe import Recipe

__all__ = ["Example", "draw_batch", "load_examples", "read_table"]


@dataclass(frozen=True, slots=True)
class Example:
    """A whole video in memory."""

    frames: Image
    """`[N, s, s, 3]`, the middle square of every frame, s the recipe's short side."""
    label: str


def read_table(table: Path) -> list[tuple[Path, str]]:
    """Reads a `labels.csv`: paths of videos and their labels."""
    with table.open(newline="", encoding="utf-8") as file:
        return [(table.parent / row["video"], row["label"]) for row in csv.DictReader(file)]


def load_examples(table: Path, *, resize: Resize, workers: int | None = None) -> list[Example]:
    """Decodes every video of a table (about 0.5 MB of memory each), in ``workers`` processes (None: one per CPU)."""
    rows = read_table(table)
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers or os.cpu_count(), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        videos = pool.imap(functools.partial(_read_squares, resize), [path for path, _ in rows], chunksize=16)
        return [Example(frames, label) for frames, (_, label) in zip(videos, rows, strict=True)]


def _read_squares(resize: Resize, path: Path) -> Image:
    guard = Guard(Limits())
    to_rgb = RgbConverter()
    side = resize.short_side_px
    squares: list[Image] = []

    def take(_: int, frame: VideoFrame) -> None:
        resized = resize_frame(resize, to_rgb(frame))
        y, x = (resized.shape[0] - side) // 2, (resized.shape[1] - side) // 2
        squares.append(resized[y : y + side, x : x + side])

    with open_video(path.read_bytes(), guard) as source:
        read_frames(source, guard, wanted=range(len(source.pts)), take=take)
    return np.stack(squares)


def draw_batch(rng: np.random.Generator, examples: list[Example], *, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Cuts one random clip out of each video, at a random place, and turns it by random symmetries.

    Args:
        rng: source of every choice.
        examples: B videos.
        recipe: gives length, stride, crop and normalisation.

    Returns:
        Clips, float32 `[B, T, S, S, 3]`, normalised, and classes, int64 `[B]`.
    """
    clips, classes = [], []
    for example in examples:
        frames, label = transform(rng, _random_window(rng, example.frames, recipe), example.label)
        clips.append(recolour(rng, frames))
        classes.append(LABELS.index(label))
    return torch.from_numpy(normalise(recipe.normalisation, np.stack(clips))), torch.tensor(classes)


def _random_window(rng: np.random.Generator, frames: Image, recipe: Recipe) -> Image:
    sampler, side = recipe.sampler, recipe.crop.size_px
    num_frames = len(frames)
    start = rng.integers(0, max(0, num_frames - sampler.num_frames * sampler.stride) + 1)
    indices = (start + sampler.stride * np.arange(sampler.num_frames)) % num_frames  # scenic's wrap
    y, x = rng.integers(0, recipe.resize.short_side_px - side + 1, 2)
    return frames[indices, y : y + side, x : x + side]
