"""The synthetic motion clips: what is rendered is what the label says, the same every time, in real H.264."""

import csv
import io
import itertools
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tubelet.demo import clips, shapes, textures
from tubelet.demo.clips import encode_h264, write_clips
from tubelet.demo.motion import LABELS, render_clip
from tubelet.demo.symmetry import SYMMETRIES, recolour, transform

ROOT = Path(__file__).parents[2]
CLIPS_PER_LABEL = 6


def motion_of(frames: NDArray[np.uint8]) -> str:
    """Names the motion between frames by dense optical flow: the strongest term of an affine model of it."""
    side = min(frames.shape[1:3])
    scale = 96 / side
    grey = [
        cv2.cvtColor(cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        for f in frames
    ]
    still = np.zeros((*grey[0].shape, 2), np.float32)
    strength = np.zeros(4)
    for one, other in itertools.pairwise(grey):
        flow = cv2.calcOpticalFlowFarneback(one, other, still, 0.5, 3, 13, 3, 5, 1.1, 0)
        moving = np.hypot(flow[..., 0], flow[..., 1]) > 0.3
        if moving.sum() < 40:
            continue
        y, x = np.nonzero(moving)
        terms = np.stack([np.ones(len(x)), x - x.mean(), y - y.mean()], axis=1)
        (u0, v0), (ux, vx), (uy, vy) = np.linalg.lstsq(terms, flow[moving], rcond=None)[0]
        reach = np.hypot(x - x.mean(), y - y.mean()).mean()
        # Bounded, since a shape that starts again gives one wild step.
        strength += np.clip([u0, v0, reach * (vx - uy) / 2, reach * (ux + vy) / 2], -3, 3)
    axis = int(np.abs(strength).argmax())
    names = (("right", "left"), ("down", "up"), ("clockwise", "counter-clockwise"), ("grow", "shrink"))
    return names[axis][0 if strength[axis] > 0 else 1]


def test_labels_are_those_of_the_recipe_in_order() -> None:
    assert tuple((ROOT / "export" / "labels" / "motion.txt").read_text().splitlines()) == LABELS
    assert [render_clip("train", 3, index).label for index in range(8)] == list(LABELS)


@pytest.mark.parametrize("split", ["train", "evaluation"])
@pytest.mark.parametrize("label", LABELS)
def test_what_moves_is_what_the_label_says(split: textures.Split, label: str) -> None:
    indices = LABELS.index(label) + len(LABELS) * np.arange(CLIPS_PER_LABEL)
    measured = [motion_of(render_clip(split, 11, int(index)).frames[:20]) for index in indices]
    assert measured.count(label) >= CLIPS_PER_LABEL - 1, measured


@settings(max_examples=15, deadline=None)
@given(split=st.sampled_from(["train", "evaluation"]), seed=st.integers(0, 2**31), index=st.integers(0, 10**6))
def test_a_clip_is_a_pure_function_within_its_bounds(split: textures.Split, seed: int, index: int) -> None:
    one, other = render_clip(split, seed, index), render_clip(split, seed, index)
    assert one.frames.tobytes() == other.frames.tobytes()
    assert (one.fps, one.label, one.crf, one.preset) == (other.fps, other.label, other.crf, other.preset)
    num_frames, height, width, channels = one.frames.shape
    assert one.frames.dtype == np.uint8
    assert 20 <= num_frames <= 90
    assert channels == 3
    assert height % 2 == width % 2 == 0
    assert 72 <= min(height, width) <= 240
    assert max(height, width) <= 320
    assert 10 <= one.fps <= 60
    assert 18 <= one.crf <= 36


def test_splits_seeds_and_indices_differ() -> None:
    assert not set(textures.FAMILIES["train"]) & set(textures.FAMILIES["evaluation"])
    assert not set(shapes.KINDS["train"]) & set(shapes.KINDS["evaluation"])
    cases = [("train", 0, 0), ("evaluation", 0, 0), ("train", 1, 0), ("train", 0, 8)]
    assert len({render_clip(*case).frames.tobytes() for case in cases}) == len(cases)  # type: ignore[arg-type]


def test_sizes_rates_and_lengths_vary() -> None:
    rendered = [render_clip("evaluation", 1, index) for index in range(40)]
    assert {clip.frames.shape[1] > clip.frames.shape[2] for clip in rendered} == {True, False}
    assert len({clip.frames.shape[1:3] for clip in rendered}) > 20
    assert len({clip.fps for clip in rendered}) > 5
    assert len({len(clip.frames) for clip in rendered}) > 15


@pytest.mark.parametrize("index", range(4))
def test_encoded_as_h264_with_the_same_bytes_each_time(index: int) -> None:
    clip = render_clip("evaluation", 2, index)
    files = io.BytesIO(), io.BytesIO()
    for file in files:
        encode_h264(clip, file)
    assert files[0].getvalue() == files[1].getvalue()
    files[0].seek(0)
    with av.open(files[0], "r") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(clip.fps)
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert decoded.shape == clip.frames.shape
    assert np.abs(decoded.astype(int) - clip.frames).mean() < 12


def test_written_table_names_every_video(tmp_path: Path) -> None:
    table = write_clips(tmp_path / "set", split="evaluation", seed=4, count=9, workers=2)
    with table.open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["video", "label"]
    assert [label for _, label in rows] == [LABELS[i % 8] for i in range(9)]
    again = write_clips(tmp_path / "again", split="evaluation", seed=4, count=9, workers=1)
    for video, _ in rows:
        assert (table.parent / video).read_bytes() == (again.parent / video).read_bytes()
    assert table.read_bytes() == again.read_bytes()


def test_command_writes_a_data_set(tmp_path: Path) -> None:
    arguments = ["--split", "train", "--count", "2", "--seed", "1", "--out", str(tmp_path / "set"), "--workers", "1"]
    done = CliRunner().invoke(clips.main, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "set" / "labels.csv")
    assert len(list((tmp_path / "set").glob("*.mp4"))) == 2


@pytest.mark.parametrize("name", SYMMETRIES)
@pytest.mark.parametrize("label", LABELS)
def test_a_symmetry_turns_the_motion_as_it_turns_the_label(name: str, label: str) -> None:
    frames = render_clip("train", 11, LABELS.index(label)).frames[:20]
    assert motion_of(frames) == label
    assert motion_of(np.ascontiguousarray(SYMMETRIES[name].apply(frames))) == SYMMETRIES[name].label(label)


@given(seed=st.integers(0, 2**32), label=st.sampled_from(LABELS))
def test_augmentation_keeps_shape_and_pixels(seed: int, label: str) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    turned, new_label = transform(rng, frames, label)
    assert new_label in LABELS
    assert turned.shape == frames.shape
    assert np.array_equal(np.sort(turned, axis=None), np.sort(frames, axis=None))
    coloured = recolour(rng, frames)
    assert coloured.dtype == np.uint8
    assert np.array_equal(
        np.abs(np.diff(coloured.astype(int), axis=0)).sum(-1), np.abs(np.diff(frames.astype(int), axis=0)).sum(-1)
    )
