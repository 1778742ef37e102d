"""What an export is verified on: generated clips that are always there, and real videos where they are given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tubelet.preprocess.geometry import crop_offsets
from tubelet.preprocess.prepare import prepare_video
from tubelet.preprocess.sampling import plan_units
from tubelet.spec.errors import InvalidRequestError, InvalidVideoError, LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.request import Request

__all__ = ["Sample", "count_files", "generated_sample", "spread", "video_samples"]

NUM_CROPS = 3
NUM_CLIPS = 6
"""Of a two-stage model: 18 views that share units, as in the papers' protocols. Clips share fewer units, and there are
more of them, where that is needed to fill the largest batch; a joint model's units are whole clips, two at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The tensors that the step ``sample`` would give for one video; axes as in `tubelet.spec.tensors`."""

    name: str
    frames: NDArray[np.uint8]
    """``[F, h, w, 3]``."""
    unit_frames: NDArray[np.int32]
    """``[U, t]``."""
    clip_units: NDArray[np.int32]
    """``[K, n]``."""
    crops: NDArray[np.int32]
    """``[R, 2]``, ``(y, x)``."""
    clip_positions: NDArray[np.int32]
    """``[K, n]``."""

    @property
    def num_views(self) -> int:
        return len(self.clip_units) * len(self.crops)


def generated_sample(contract: Contract, *, num_frames: int, largest_batch: int, seed: int) -> Sample:
    """Moving gradients under noise, cut into overlapping clips, so that every view is another picture.

    Args:
        contract: gives the sizes.
        num_frames: T, frames of a clip.
        largest_batch: units in one run of the encoder; there are at least as many.
        seed: of the pictures; the same seed gives the same bytes.
    """
    t = contract.geometry.unit_frames
    # A long clip is one view of the whole video, as in the protocol `full`.
    num_crops = NUM_CROPS if num_frames <= contract.sampler.num_frames else 1
    starts = np.zeros(1, dtype=np.int64) if num_crops == 1 else _clip_starts(contract, largest_batch)
    clips = starts[:, None] + np.arange(num_frames)
    plan = plan_units(clips, unit_frames=t)
    height = contract.resize.short_side(num_crops)
    width = height * 4 // 3
    return Sample(
        name=f"generated, {num_frames} frames",
        frames=_pictures(len(plan.frames), height, width, rng=np.random.default_rng(seed)),
        unit_frames=plan.unit_frames,
        clip_units=plan.clip_units,
        crops=crop_offsets(contract.crop, height=height, width=width, num_crops=num_crops),
        # Positions that rise, differ from clip to clip, and go round the table of a long one.
        clip_positions=(3 * clips[:, ::t]).astype(np.int32),
    )


def _clip_starts(contract: Contract, largest_batch: int) -> NDArray[np.int64]:
    """First frames of clips whose distinct units, in all crops, fill the largest batch."""
    n, wanted = contract.units_per_clip, math.ceil(largest_batch / NUM_CROPS)
    num_clips = max(2 if contract.is_joint else NUM_CLIPS, math.ceil(wanted / n))
    if contract.is_joint:
        return np.arange(num_clips)
    step = max(1, math.ceil((wanted - n) / (num_clips - 1)))  # units from one clip to the next, n at most
    return np.arange(num_clips) * step * contract.geometry.unit_frames


def video_samples(folder: Path, contract: Contract, *, most: int | None = None) -> Iterator[Sample | str]:
    """Prepares every video of a folder by the model's default protocol, one by one.

    Args:
        folder: where the files lie.
        contract: of the model.
        most: files to take, spread evenly over their names in alphabetical order; None: all.

    Returns:
        An iterator of samples; for a file that holds no usable video, a line that says why.

    Raises:
        InvalidRequestError: ``bad_input``, at once where the folder cannot be read or is empty, at the end where none
            of its files is a usable video.
    """
    files = _files(folder)
    chosen = files if most is None else [files[i] for i in spread(len(files), most)]
    return _prepare(chosen, contract, folder=folder.name)


def spread(num_items: int, most: int) -> NDArray[np.int64]:
    """Indices of ``most`` of the items, or of all where there are fewer, evenly from the first to the last."""
    return np.linspace(0, num_items - 1, min(num_items, most)).round().astype(np.int64)


def count_files(folder: Path) -> int:
    """Files in a folder of videos, whatever they turn out to hold.

    Raises:
        InvalidRequestError: ``bad_input``: the folder cannot be read or is empty.
    """
    return len(_files(folder))


def _prepare(files: list[Path], contract: Contract, *, folder: str) -> Iterator[Sample | str]:
    request = Request.from_parameters({}, contract, Limits())
    usable = 0
    for path in files:
        try:
            prepared = prepare_video(path.read_bytes(), request, contract, Limits())
        except (InvalidVideoError, LimitError) as exc:
            yield f"{path.name}: left out, {exc}"
            continue
        usable += 1
        yield Sample(
            name=path.name,
            frames=prepared.frames,
            unit_frames=prepared.unit_frames,
            clip_units=prepared.clip_units,
            crops=prepared.crops,
            clip_positions=prepared.clip_positions,
        )
    if not usable:
        raise InvalidRequestError("bad_input", f"{folder} must hold at least one video that can be decoded")


def _files(folder: Path) -> list[Path]:
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as exc:
        raise InvalidRequestError("bad_input", f"cannot read the folder {folder}: {exc.strerror}") from exc
    if not files:
        raise InvalidRequestError("bad_input", f"the folder {folder} holds no file")
    return files


def _pictures(num_frames: int, height: int, width: int, *, rng: np.random.Generator) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
    frames: NDArray[Any] = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    # Per channel: two waves along x and y, a phase, and how fast it moves.
    waves = rng.uniform(-8, 8, size=(4, 3)).astype(np.float32)
    for i in range(num_frames):
        phase = waves[2] + waves[3] * np.float32(i / 4)
        gradient = np.sin(x[..., None] * waves[0] + y[..., None] * waves[1] + phase)
        noise = rng.integers(-30, 31, size=(height, width, 3))
        frames[i] = np.clip(127.5 + 97 * gradient + noise, 0, 255)
    return frames
