"""Frame indices, sizes and crop offsets against those of the pipelines that they reproduce."""

import json
from pathlib import Path
from typing import Any

import pytest

from tubelet.preprocess.geometry import crop_offsets, resized_size
from tubelet.preprocess.sampling import plan_units, scenic_clips
from tubelet.spec.manifest import Crop, Resize


@pytest.fixture(scope="module")
def scenic(golden_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((golden_dir / "sampling.json").read_text())["scenic"]
    return found


def test_scenic_clips(scenic: dict[str, Any]):
    assert scenic["temporal"]
    for case in scenic["temporal"]:
        numbers = {name: case[name] for name in ("clip_frames", "stride", "num_clips")}
        clips = scenic_clips(case["num_frames"], **numbers)
        assert clips.tolist() == case["clips"], case
        plan = plan_units(clips, unit_frames=2)
        assert plan.frames[plan.unit_frames[plan.clip_units]].reshape(clips.shape).tolist() == case["clips"]


def test_scenic_sizes_and_crops(scenic: dict[str, Any]):
    assert scenic["spatial"]
    for case in scenic["spatial"]:
        resize = Resize(
            kind="scenic",
            short_side_px=case["min_resize"],
            kernel="bilinear",
            antialias=False,
            on="uint8_truncated",
        )
        crop = Crop(kind="scenic", size_px=case["crop"])
        height, width = resized_size(resize, height=case["height"], width=case["width"])
        assert [height, width] == case["resized"], case
        assert crop_offsets(crop, height=height, width=width, num_crops=3).tolist() == case["three_crops"], case
        assert crop_offsets(crop, height=height, width=width, num_crops=1).tolist() == [case["single_crop"]], case
