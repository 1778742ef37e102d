"""Frames brought to their short side."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tubelet.preprocess.resize import resize_frame, resized_size
from tubelet.spec.pipeline import Resize

Pixels = NDArray[np.uint8]
KINDS = ("scenic", "pyslowfast", "gluonmm")
kinds = st.sampled_from(KINDS)
sides = st.integers(1, 200)


def to_short_side(pixels: int, kind: Any = "scenic", *, three_crops: int | None = None) -> Resize:
    return Resize(
        kind=kind,
        short_side_px=pixels,
        short_side_three_crops_px=three_crops or pixels,
        kernel="bilinear",
        antialias=False,
        on="uint8_truncated" if kind == "scenic" else "uint8_rounded",
    )


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


@given(kinds, sides, sides, st.integers(1, 300))
def test_the_short_side_is_reached_and_the_shape_kept(kind, height, width, short):
    out_height, out_width = resized_size(to_short_side(short, kind), height=height, width=width, num_crops=1)
    assert (out_height if height <= width else out_width) == min(out_height, out_width) == short
    long, exact = max(out_height, out_width), max(height, width) * short / min(height, width)
    assert exact - 1 - 1e-9 < long <= max(exact, short)


def test_pyslowfast_rounds_the_quotient_of_the_sides():
    """61 / 28 * 56 is 121.99999999999999 in float64."""
    assert resized_size(to_short_side(56, "pyslowfast"), height=28, width=61, num_crops=1) == (56, 121)
    assert resized_size(to_short_side(56, "gluonmm"), height=28, width=61, num_crops=1) == (56, 122)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_that_has_its_short_side_keeps_its_long_one(kind):
    """Also where 61 / 56 * 56 is less than 61."""
    assert resized_size(to_short_side(56, kind), height=61, width=56, num_crops=3) == (61, 56)


def test_three_crops_may_have_a_short_side_of_their_own():
    resize = to_short_side(64, "pyslowfast", three_crops=56)
    assert resized_size(resize, height=90, width=120, num_crops=1) == (64, 85)
    assert resized_size(resize, height=120, width=90, num_crops=3) == (74, 56)


@given(st.integers(2, 80), st.integers(2, 80), st.integers(2, 40))
def test_the_scenic_resize_is_the_formula_bit_by_bit(height, width, short):
    frame = noise(height, width, 3)
    size = resized_size(to_short_side(short), height=height, width=width, num_crops=1)
    if size[0] * size[1] > 2000:
        size = (min(size[0], 40), min(size[1], 40))
    np.testing.assert_array_equal(
        resize_frame(to_short_side(short), frame, size=size), resized_by_definition(frame, size)
    )


@given(st.integers(8, 200), st.integers(8, 200), st.integers(8, 100), st.integers(8, 100))
def test_the_pyslowfast_resize_is_that_of_torch_rounded(height, width, out_height, out_width):
    frame, size = noise(height, width, 3), (out_height, out_width)
    floats = torch.from_numpy(frame).permute(2, 0, 1)[None].double()  # [1, 3, h, w]
    exact = torch.nn.functional.interpolate(floats, size=size, mode="bilinear", align_corners=False)[0]
    found = resize_frame(to_short_side(8, "pyslowfast"), frame, size=size)
    assert found.dtype == np.uint8
    assert np.abs(found - exact.permute(1, 2, 0).numpy()).max() < 0.51


@given(st.integers(8, 200), st.integers(8, 200), st.integers(8, 100), st.integers(8, 100))
def test_the_gluonmm_resize_is_that_of_opencv(height, width, out_height, out_width):
    frame, size = noise(height, width, 3), (out_height, out_width)
    expected = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resize_frame(to_short_side(8, "gluonmm"), frame, size=size), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_a_flat_picture_stays_flat(value, kind):
    frame = np.full((97, 61, 3), value, dtype=np.uint8)
    assert (resize_frame(to_short_side(32, kind), frame) == value).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_of_the_right_size_is_not_touched(kind):
    frame = noise(32, 47, 3)
    assert resize_frame(to_short_side(32, kind), frame) is frame


@pytest.mark.parametrize("kind", KINDS)
def test_a_turned_view_is_resized_like_its_copy(kind):
    turned = np.rot90(noise(90, 50, 3))
    resize = to_short_side(32, kind)
    np.testing.assert_array_equal(resize_frame(resize, turned), resize_frame(resize, np.ascontiguousarray(turned)))
