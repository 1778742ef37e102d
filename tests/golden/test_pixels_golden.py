"""Pixels against those of the pipelines that they reproduce: equal to the last bit for scenic and VidTr's bytes."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tubelet.preprocess.geometry import crop_offsets, cut_units
from tubelet.preprocess.normalise import normalise
from tubelet.preprocess.resize import resize_frame, resized_size
from tubelet.spec.pipeline import Crop, Normalisation, Resize

CASES = [f"{shape}_{sizes}" for shape in ("landscape", "portrait") for sizes in ("short32_crop28", "short45_crop40")]
CASES += ["landscape_short56_crop49", "portrait_short56_crop49", "square_short38_crop33"]
TO_MINUS_ONE_TO_ONE = Normalisation(scale=2 / 255, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0))
VTN = Normalisation(scale=1 / 255, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
IMAGENET = Normalisation(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
LEVEL = 1 / 255 / 0.225
"""One level of a byte in VTN's units: 0.0174."""

Case = dict[str, Any]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, golden_dir: Path) -> Case:
    """The arrays of a file, and ``short`` and ``size`` from its name."""
    short, size = map(int, re.findall(r"\d+", request.param))
    return {**np.load(golden_dir / "pixels" / f"{request.param}.npz"), "short": short, "size": size}


def rule(kind: Any, case: Case) -> Resize:
    """Three crops have the crop's side as their short side, but for scenic."""
    return Resize(
        kind=kind,
        short_side_px=case["short"],
        short_side_three_crops_px=case["short"] if kind == "scenic" else case["size"],
        kernel="bilinear",
        antialias=False,
        on="uint8_truncated" if kind == "scenic" else "uint8_rounded",
    )


def resized(kind: Any, case: Case, num_crops: int) -> NDArray[np.uint8]:
    height, width = case["frames"].shape[1:3]
    size = resized_size(rule(kind, case), height=height, width=width, num_crops=num_crops)
    return np.stack([resize_frame(rule(kind, case), frame, size=size) for frame in case["frames"]])


def views(kind: Any, case: Case, num_crops: int, normalisation: Normalisation) -> NDArray[np.float32]:
    """``[R, T, C, C, 3]``, as a network gets them."""
    frames = resized(kind, case, num_crops)
    whole_clip = np.arange(len(frames), dtype=np.int32)[None]
    crop = Crop(kind=kind, size_px=case["size"])
    crops = crop_offsets(crop, height=frames.shape[1], width=frames.shape[2], num_crops=num_crops)
    return normalise(normalisation, cut_units(frames, whole_clip, crops, size_px=case["size"]))


def channels_last(clips: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.moveaxis(clips, -4, -1)


def test_scenic_pixels_are_equal(case: Case):
    np.testing.assert_array_equal(resized("scenic", case, 1), case["scenic_resized"])
    np.testing.assert_array_equal(views("scenic", case, 3, TO_MINUS_ONE_TO_ONE), case["scenic_three_crops"])
    np.testing.assert_array_equal(views("scenic", case, 1, TO_MINUS_ONE_TO_ONE)[0], case["scenic_single_crop"])


def test_vidtr_bytes_are_equal(case: Case):
    np.testing.assert_array_equal(resized("gluonmm", case, 3), case["vidtr_resized"])
    # A byte divided by 255 and one times 1/255 may differ in the last bit of float32.
    three, validation = channels_last(case["vidtr_three_crops"]), channels_last(case["vidtr_validation"])
    np.testing.assert_allclose(views("gluonmm", case, 3, IMAGENET), three, rtol=0, atol=1e-6)
    np.testing.assert_allclose(views("gluonmm", case, 1, IMAGENET)[0], validation, rtol=0, atol=1e-6)


def test_vtn_pixels_differ_by_the_rounding_to_bytes(case: Case):
    """VTN's pipeline resizes the normalised floats."""
    for num_crops, expected in ((3, case["vtn_three_crops"]), (1, case["vtn_full_video"][None])):
        found = views("pyslowfast", case, num_crops, VTN)
        apart = np.abs(found - channels_last(expected))
        assert apart.max() < 0.51 * LEVEL
        assert apart.mean() < 0.26 * LEVEL
        if num_crops == 1 and min(case["frames"].shape[1:3]) == case["short"]:
            assert apart.max() < 1e-6, "no resize happens here"
