"""Crop windows, and the cutting of units."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.preprocess.geometry import crop_offsets, cut_units
from tubelet.spec.pipeline import Crop

KINDS = ("scenic", "pyslowfast", "gluonmm", "gluoncv_i3d")


@given(st.sampled_from(KINDS), st.integers(1, 64), st.integers(0, 100), st.integers(0, 100), st.sampled_from([1, 3]))
def test_crops_lie_inside_and_three_cover_both_ends(kind: Any, size, slack_y, slack_x, num_crops):
    height, width = size + slack_y, size + slack_x
    crops = crop_offsets(Crop(kind=kind, size_px=size), height=height, width=width, num_crops=num_crops)
    assert crops.shape == (num_crops, 2)
    assert crops.dtype == np.int32
    assert (crops >= 0).all()
    assert (crops + size <= (height, width)).all()
    middle = np.array([slack_y, slack_x]) / 2
    if num_crops == 1:
        assert (np.abs(crops - middle) <= 0.5).all()
        return
    axis = 0 if height > width else 1
    offsets, slack = sorted(crops[:, axis].tolist()), (slack_y, slack_x)[axis]
    assert offsets[0] == 0
    assert abs(offsets[1] - slack / 2) <= 0.5
    assert offsets[2] in ((slack, slack - 1) if kind == "gluonmm" else (slack,))
    assert len(set(crops[:, 1 - axis].tolist())) == 1
    assert abs(crops[0, 1 - axis] - middle[1 - axis]) <= 0.5


@pytest.mark.parametrize(
    ("kind", "one", "landscape", "portrait"),
    [
        ("scenic", [[1, 2]], [[2, 0], [2, 3], [2, 5]], [[0, 2], [3, 2], [5, 2]]),
        ("pyslowfast", [[2, 3]], [[2, 0], [2, 3], [2, 5]], [[0, 2], [3, 2], [5, 2]]),
        ("gluonmm", [[2, 2]], [[1, 0], [1, 4], [1, 2]], [[0, 1], [4, 1], [2, 1]]),
        ("gluoncv_i3d", [[1, 2]], [[1, 0], [1, 2], [1, 5]], [[0, 1], [2, 1], [5, 1]]),
    ],
)
def test_each_pipeline_has_its_order_and_its_middle(kind: Any, one, landscape, portrait):
    crop = Crop(kind=kind, size_px=4)
    assert crop_offsets(crop, height=7, width=9, num_crops=1).tolist() == one
    assert crop_offsets(crop, height=7, width=9, num_crops=3).tolist() == landscape
    assert crop_offsets(crop, height=9, width=7, num_crops=3).tolist() == portrait


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.randoms(use_true_random=False))
def test_units_are_the_named_windows_of_the_named_frames(num_frames, num_units, t, num_crops, random):
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, 11, 13, 3), dtype=np.uint8)
    size = 5
    unit_frames = np.array([[random.randrange(num_frames) for _ in range(t)] for _ in range(num_units)], dtype=np.int32)
    crops = np.array([[random.randrange(7), random.randrange(9)] for _ in range(num_crops)], dtype=np.int32)
    units = cut_units(frames, unit_frames, crops, size_px=size)
    assert units.shape == (num_units * num_crops, t, size, size, 3)
    assert units.dtype == np.uint8
    for u in range(num_units):
        for r, (y, x) in enumerate(crops):
            for k in range(t):
                window = frames[unit_frames[u, k], y : y + size, x : x + size]
                np.testing.assert_array_equal(units[u * num_crops + r, k], window)
