"""Resize, crop windows, and the cutting of units."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tubelet.preprocess.geometry import crop_offsets, cut_units, resize_frame, resized_size
from tubelet.spec.manifest import Crop, Resize

Pixels = NDArray[np.uint8]
sides = st.integers(1, 200)


def to_short_side(pixels: int) -> Resize:
    return Resize(kind="scenic", short_side_px=pixels, kernel="bilinear", antialias=False, on="uint8_truncated")


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def resized_by_definition(frame: Pixels, size: tuple[int, int]) -> Pixels:
    """The formula of TensorFlow's kernel, written out pixel by pixel in float32."""
    f = np.float32
    (height, width), (out_height, out_width) = frame.shape[:2], size
    out = np.empty((*size, 3), dtype=np.uint8)

    def source(i: int, size_in: int, size_out: int) -> tuple[int, int, np.float32]:
        at = (f(i) + f(0.5)) * (f(size_in) / f(size_out)) - f(0.5)
        return max(int(np.floor(at)), 0), min(int(np.ceil(at)), size_in - 1), at - np.floor(at)

    for i in range(out_height):
        top, bottom, down = source(i, height, out_height)
        for j in range(out_width):
            left, right, across = source(j, width, out_width)
            for c in range(3):
                a, b = f(frame[top, left, c]), f(frame[top, right, c])
                d, e = f(frame[bottom, left, c]), f(frame[bottom, right, c])
                upper, lower = a + (b - a) * across, d + (e - d) * across
                out[i, j, c] = int(upper + (lower - upper) * down)
    return out


@given(sides, sides, st.integers(1, 300))
def test_the_short_side_is_reached_and_the_shape_kept(height, width, short):
    out_height, out_width = resized_size(to_short_side(short), height=height, width=width)
    assert min(out_height, out_width) == short
    long, exact = max(out_height, out_width), max(height, width) * short / min(height, width)
    assert exact - 1 < long <= max(exact, short)


@given(st.integers(2, 80), st.integers(2, 80), st.integers(2, 40))
def test_resize_is_the_formula_bit_by_bit(height, width, short):
    frame = noise(height, width, 3)
    size = resized_size(to_short_side(short), height=height, width=width)
    if size[0] * size[1] > 2000:
        size = (min(size[0], 40), min(size[1], 40))
    np.testing.assert_array_equal(
        resize_frame(to_short_side(short), frame, size=size), resized_by_definition(frame, size)
    )


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_a_flat_picture_stays_flat(value):
    frame = np.full((97, 61, 3), value, dtype=np.uint8)
    assert (resize_frame(to_short_side(32), frame) == value).all()


def test_a_frame_of_the_right_size_is_not_touched():
    frame = noise(32, 47, 3)
    assert resize_frame(to_short_side(32), frame) is frame


def test_a_turned_view_is_resized_like_its_copy():
    turned = np.rot90(noise(90, 50, 3))
    np.testing.assert_array_equal(
        resize_frame(to_short_side(32), turned), resize_frame(to_short_side(32), np.ascontiguousarray(turned))
    )


@given(st.integers(1, 64), st.integers(0, 100), st.integers(0, 100), st.sampled_from([1, 3]))
def test_crops_lie_inside_and_three_cover_both_ends(size, slack_y, slack_x, num_crops):
    height, width = size + slack_y, size + slack_x
    crops = crop_offsets(Crop(kind="scenic", size_px=size), height=height, width=width, num_crops=num_crops)
    assert crops.shape == (num_crops, 2)
    assert crops.dtype == np.int32
    assert (crops >= 0).all()
    assert (crops + size <= (height, width)).all()
    if num_crops == 3:
        axis = 0 if height > width else 1
        assert crops[0, axis] == 0
        assert crops[2, axis] == (slack_y, slack_x)[axis]
        assert len(set(crops[:, 1 - axis].tolist())) == 1


def test_the_middle_is_rounded_down_for_one_crop_and_up_for_three():
    crop = Crop(kind="scenic", size_px=4)
    assert crop_offsets(crop, height=7, width=9, num_crops=1).tolist() == [[1, 2]]
    assert crop_offsets(crop, height=7, width=9, num_crops=3).tolist() == [[2, 0], [2, 3], [2, 5]]
    assert crop_offsets(crop, height=9, width=7, num_crops=3).tolist() == [[0, 2], [3, 2], [5, 2]]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.randoms(use_true_random=False))
def test_units_are_the_named_windows_of_the_named_frames(num_frames, num_units, t, num_crops, random):
    frames, size = noise(num_frames, 11, 13, 3), 5
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
