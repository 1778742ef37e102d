"""Writes motion clips as a data set: H.264 files and a table of their labels.

``python -m tubelet.demo.clips --split evaluation --count 400 --seed 1 --out DIR``
"""

from __future__ import annotations

import csv
import functools
import multiprocessing
import os
from pathlib import Path
from typing import BinaryIO

import av
import click
import cv2

from tubelet.demo.motion import Clip, render_clip
from tubelet.demo.textures import Split

__all__ = ["LABELS_CSV", "encode_h264", "write_clips"]

LABELS_CSV = "labels.csv"


def encode_h264(clip: Clip, target: Path | BinaryIO) -> None:
    """Encodes a clip as MP4 with H.264 in 4:2:0, the form of most videos in the world.

    The same clip gives the same bytes.
    """
    height, width = clip.frames.shape[1:3]
    file = str(target) if isinstance(target, Path) else target
    with av.open(file, "w", format="mp4") as container:
        # With its macroblock tree or several threads, x264 gives other bytes from one run to the next.
        options = {"crf": str(clip.crf), "preset": clip.preset, "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=clip.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for pixels in clip.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def write_clips(folder: Path, *, split: Split, seed: int, count: int, workers: int | None = None) -> Path:
    """Renders and encodes clips 0 to ``count - 1`` of a data set.

    Args:
        folder: made if missing; files of an earlier run are overwritten.
        split: ``train`` or ``evaluation``, which share no textures and no shapes.
        seed: of the data set.
        count: number of clips.
        workers: processes; None takes one per processor.

    Returns:
        Path of ``labels.csv`` in ``folder``, columns ``video,label``, videos relative to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write = functools.partial(_write_clip, folder, split, seed)
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        rows = [write(index) for index in range(count)]
    else:
        # Spawned, since the parent may already run threads of torch or OpenCV.
        with multiprocessing.get_context("spawn").Pool(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            rows = pool.map(write, range(count), chunksize=8)
    path = folder / LABELS_CSV
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("video", "label"), *rows])
    return path


def _write_clip(folder: Path, split: Split, seed: int, index: int) -> tuple[str, str]:
    clip = render_clip(split, seed, index)
    name = f"{index:05d}_{clip.label}.mp4"
    encode_h264(clip, folder / name)
    return name, clip.label


@click.command()
@click.option("--split", type=click.Choice(["train", "evaluation"]), required=True)
@click.option("--count", type=click.IntRange(min=1), required=True, help="Number of clips.")
@click.option("--seed", type=int, required=True, help="Seed of the data set.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write.")
@click.option("--workers", type=click.IntRange(min=1), default=None, help="Processes; one per processor if left out.")
def main(split: Split, count: int, seed: int, out: Path, workers: int | None) -> None:
    """Writes a data set of synthetic motion clips and prints the path of its table."""
    click.echo(write_clips(out, split=split, seed=seed, count=count, workers=workers))


if __name__ == "__main__":
    main()
