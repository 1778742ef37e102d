"""Pixels against those of the pipelines that they reproduce: equal to the last bit for scenic."""

import re
from pathlib import Path

import numpy as np
import pytest

from tubelet.preprocess.geometry import crop_offsets, cut_units, resize_frame
from tubelet.preprocess.normalise import normalise
from tubelet.spec.manifest import Crop, Normalisation, Resize

CASES = [f"{shape}_{sizes}" for shape in ("landscape", "portrait") for sizes in ("short32_crop28", "short45_crop40")]
CASES += ["landscape_short56_crop49", "portrait_short56_crop49", "square_short38_crop33"]
TO_MINUS_ONE_TO_ONE = Normalisation(scale=2 / 255, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("case", CASES)
def test_scenic_pixels(golden_dir: Path, case: str):
    arrays = np.load(golden_dir / "pixels" / f"{case}.npz")
    short, size = map(int, re.findall(r"\d+", case))
    resize = Resize(kind="scenic", short_side_px=short, kernel="bilinear", antialias=False, on="uint8_truncated")
    resized = np.stack([resize_frame(resize, frame) for frame in arrays["frames"]])
    np.testing.assert_array_equal(resized, arrays["scenic_resized"])

    whole_clip = np.arange(len(resized), dtype=np.int32)[None]
    crop = Crop(kind="scenic", size_px=size)
    for num_crops, expected in ((3, arrays["scenic_three_crops"]), (1, arrays["scenic_single_crop"][None])):
        crops = crop_offsets(crop, height=resized.shape[1], width=resized.shape[2], num_crops=num_crops)
        units = cut_units(resized, whole_clip, crops, size_px=size)
        np.testing.assert_array_equal(normalise(TO_MINUS_ONE_TO_ONE, units), expected)
