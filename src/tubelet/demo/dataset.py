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
from tubelet.demo.windows import random_window
from tubelet.preprocess.container import open_video
from tubelet.preprocess.decode import RgbConverter, read_frames
from tubelet.preprocess.guard import Guard
from tubelet.preprocess.normalise import normalise
from tubelet.preprocess.resize import resize_frame
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Resize
from tubelet.spec.recipe import Recipe

__all__ = ["Batch", "Example", "draw_batch", "load_examples", "read_table"]


@dataclass(frozen=True, slots=True)
class Example:
    """A whole video in memory."""

    frames: Image
    """`[N, s, s, 3]`, the middle square of every frame, s the recipe's short side."""
    fps: float
    label: str


@dataclass(frozen=True, slots=True)
class Batch:
    """B clips to learn from."""

    clips: Tensor
    """float32 `[B, T, S, S, 3]`, normalised."""
    positions: Tensor
    """int64 `[B, T]`, where in the clip's span each frame stood."""
    classes: Tensor
    """int64 `[B]`."""


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
        return [Example(frames, fps, label) for (frames, fps), (_, label) in zip(videos, rows, strict=True)]


def _read_squares(resize: Resize, path: Path) -> tuple[Image, float]:
    guard = Guard(Limits())
    to_rgb = RgbConverter()
    side = resize.short_side_px
    squares: list[Image] = []

    def take(_: int, frame: VideoFrame) -> None:
        resized = resize_frame(resize, to_rgb(frame))
        y, x = (resized.shape[0] - side) // 2, (resized.shape[1] - side) // 2
        squares.append(resized[y : y + side, x : x + side])

    with open_video(path.read_bytes(), guard) as source:
        clock, _ = source.clock(source.pts)
        read_frames(source, guard, wanted=range(len(source.pts)), take=take, restart=squares.clear)
    return np.stack(squares), clock.fps


def draw_batch(rng: np.random.Generator, examples: list[Example], *, recipe: Recipe) -> Batch:
    """Cuts one random clip out of each video, at a random place, and turns it by random symmetries.

    Args:
        rng: source of every choice.
        examples: B videos.
        recipe: gives sampler, crop and normalisation.

    Returns:
        B clips.
    """
    clips, positions, classes = [], [], []
    side, slack = recipe.crop.size_px, recipe.resize.short_side_px - recipe.crop.size_px
    for example in examples:
        window = random_window(rng, len(example.frames), fps=example.fps, sampler=recipe.sampler)
        y, x = rng.integers(0, slack + 1, 2)
        frames, label = transform(rng, example.frames[window.frames, y : y + side, x : x + side], example.label)
        clips.append(recolour(rng, frames))
        positions.append(window.positions)
        classes.append(LABELS.index(label))
    pixels = normalise(recipe.normalisation, np.stack(clips))
    return Batch(torch.from_numpy(pixels), torch.from_numpy(np.stack(positions)), torch.tensor(classes))
