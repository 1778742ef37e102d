"""Frame indices, sizes, crop offsets and the order of views against those of the pipelines that they reproduce."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from tubelet.preprocess.geometry import crop_offsets, cut_units
from tubelet.preprocess.prepare import prepare_video
from tubelet.preprocess.pyslowfast import clip_bounds, decoded_spans, full_video_clip, multi_view_clips
from tubelet.preprocess.resize import resized_size
from tubelet.preprocess.samplers import gluoncv_i3d_clips, gluonmm_clips, scenic_clips
from tubelet.preprocess.sampling import plan_units, sample_clips
from tubelet.preprocess.timeline import VideoClock, video_clock
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.pipeline import Crop, Resize
from tubelet.spec.protocol import Protocol
from tubelet.spec.request import Request

Cases = dict[str, Any]
MakeVideo = Callable[..., bytes]
ReadNumbers = Callable[[Any], list[int]]

RATES = (Fraction(25), Fraction(30), Fraction(30_000, 1001))
COUNTING = {"scenic": scenic_clips, "gluonmm": gluonmm_clips, "gluoncv_i3d": gluoncv_i3d_clips}


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Cases:
    found: Cases = json.loads((golden_dir / "sampling.json").read_text())
    return found


def rate_of(case: Cases) -> Fraction:
    return min(RATES, key=lambda rate: abs(rate - Fraction(case["fps"])))


def mp4_clock(case: Cases) -> VideoClock:
    """The clock of an MP4 file of a constant rate."""
    rate, time_base = rate_of(case), Fraction(case.get("time_base", "1/90000"))
    tick = int(1 / (rate * time_base))
    pts = [tick * number for number in range(case["num_frames"])]
    clock, stamped = video_clock(pts, time_base=time_base, rate=rate, num_claimed=len(pts), duration=tick * len(pts))
    assert stamped
    return clock


def matroska_clock(case: Cases) -> VideoClock:
    """The clock of the same video in a container that says no duration of its stream, and has milliseconds."""
    rate = rate_of(case)
    pts: list[int | None] = [round(1000 * number / rate) for number in range(case["num_frames"])]
    return video_clock(pts, time_base=Fraction(1, 1000), rate=rate, num_claimed=0, duration=None)[0]


def resize(kind: Literal["scenic", "pyslowfast", "gluonmm"], short_side: int, three_crops: int) -> Resize:
    return Resize(
        kind=kind,
        short_side_px=short_side,
        short_side_three_crops_px=three_crops,
        kernel="bilinear",
        antialias=False,
        on="uint8_truncated" if kind == "scenic" else "uint8_rounded",
    )


@pytest.mark.parametrize("pipeline", COUNTING)
def test_clips_of_samplers_that_count(pipeline: str, golden: Cases):
    assert golden[pipeline]["temporal"]
    for case in golden[pipeline]["temporal"]:
        clips = COUNTING[pipeline](
            case["num_frames"],
            clip_frames=case["clip_frames"],
            stride=case["stride"],
            num_clips=case.get("num_clips", len(case["clips"])),
        )
        assert clips.tolist() == case["clips"], case
        assert clips[:, 0].tolist() == case.get("starts", clips[:, 0].tolist())
        plan = plan_units(clips, unit_frames=2)
        assert plan.frames[plan.unit_frames[plan.clip_units]].reshape(clips.shape).tolist() == case["clips"]


def test_pyslowfast_clips_of_a_span(golden: Cases):
    for case in golden["vtn"]["multi_view"]:
        numbers = {name: case[name] for name in ("clip_frames", "stride", "target_fps", "num_clips")}
        clock, clips = mp4_clock(case), case["clips"]
        assert clock.ticks is not None
        length = case["stride"] * case["clip_frames"] / case["target_fps"] * clock.fps
        bounds = clip_bounds(case["num_frames"], length=length, num_clips=case["num_clips"])
        np.testing.assert_allclose(bounds.start, [clip["start"] for clip in clips], atol=1e-6)
        np.testing.assert_allclose(bounds.end, [clip["end"] for clip in clips], atol=1e-6)
        first, count = decoded_spans(clock.ticks, bounds)
        assert first.tolist() == [clip["first_decoded"] for clip in clips], case
        assert count.tolist() == [clip["num_decoded"] for clip in clips], case
        frames, positions = multi_view_clips(clock, **numbers)
        assert frames.tolist() == [clip["source_frames"] for clip in clips], case
        assert positions.tolist() == [clip["position_ids"] for clip in clips], case
        frames, positions = multi_view_clips(matroska_clock(case), **numbers)
        assert frames.tolist() == positions.tolist() == case["no_duration"]["position_ids"], case


def test_pyslowfast_full_video(golden: Cases, make_vtn_contract: Callable[..., Contract]):
    assert golden["vtn"]["full_video"]
    for case in golden["vtn"]["full_video"]:
        for clock in (mp4_clock(case), matroska_clock(case)):
            span_s = case["clip_frames"] / case["target_fps"]
            clip = full_video_clip(clock, clip_frames=case["clip_frames"], span_s=span_s)
            assert clip.tolist() == [case["position_ids"]], case
            # A request may ask for the number that another model was evaluated with.
            contract = make_vtn_contract(num_full=7, span_s=span_s)
            clips = sample_clips(contract, Protocol.parse(f"full{case['clip_frames']}"), clock)
            assert clips.frames.tolist() == clips.positions.tolist() == [case["position_ids"]], case


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("num_frames", [40, 200, 250, 300])
def test_pyslowfast_on_real_files(
    num_frames: int,
    rate: Fraction,
    golden: Cases,
    make_vtn_contract: Callable[..., Contract],
    make_video: MakeVideo,
    read_numbers: ReadNumbers,
):
    """From the bytes of an H.264 file to the frames that the model sees and the positions that it is told."""
    contract = make_vtn_contract()
    mp4 = make_video(num_frames, fps=rate, size=(96, 64))
    matroska = make_video(num_frames, fps=rate, size=(96, 64), container="matroska")
    (multi_view,) = cases_of(golden["vtn"]["multi_view"], num_frames, rate)
    (full,) = cases_of(golden["vtn"]["full_video"], num_frames, rate)
    clips, absolute = multi_view["clips"], multi_view["no_duration"]["position_ids"]
    for video, protocol, source_frames, position_ids in (
        (mp4, "10x3", [clip["source_frames"] for clip in clips], [clip["position_ids"] for clip in clips]),
        (matroska, "10x3", absolute, absolute),
        (mp4, "full", [full["position_ids"]], [full["position_ids"]]),
        (matroska, "full", [full["position_ids"]], [full["position_ids"]]),
    ):
        request = Request.from_parameters({"protocol": protocol}, contract, Limits())
        prepared = prepare_video(video, request, contract, Limits())
        shown = np.array(read_numbers(prepared.frames))[prepared.unit_frames[prepared.clip_units]]
        assert shown[..., 0].tolist() == source_frames, protocol
        assert prepared.clip_positions.tolist() == position_ids, protocol


def cases_of(cases: list[Cases], num_frames: int, rate: Fraction) -> list[Cases]:
    return [case for case in cases if case["num_frames"] == num_frames and rate_of(case) == rate]


def test_scenic_sizes_and_crops(golden: Cases):
    assert golden["scenic"]["spatial"]
    for case in golden["scenic"]["spatial"]:
        rule = resize("scenic", case["min_resize"], case["min_resize"])
        crop = Crop(kind="scenic", size_px=case["crop"])
        for num_crops, offsets in ((3, case["three_crops"]), (1, [case["single_crop"]])):
            assert sizes_and_crops(rule, crop, case, num_crops) == (case["resized"], offsets), case


def test_pyslowfast_sizes_and_crops(golden: Cases):
    assert golden["vtn"]["spatial"]
    for case in golden["vtn"]["spatial"]:
        rule = resize("pyslowfast", case["short_side"], case["short_side"])
        crop = Crop(kind="pyslowfast", size_px=case["crop"])
        assert sizes_and_crops(rule, crop, case, 3) == (case["resized"], case["crops"]), case
        assert sizes_and_crops(rule, crop, case, 1) == (case["resized"], case["crops"][1:2]), case


def test_gluonmm_sizes_and_crops(golden: Cases):
    assert golden["gluonmm"]["spatial"]
    for case in golden["gluonmm"]["spatial"]:
        validation = case["validation"]
        rule = resize("gluonmm", validation["short_side"], case["crop"])
        crop = Crop(kind="gluonmm", size_px=case["crop"])
        assert sizes_and_crops(rule, crop, case, 3) == (case["resized"], case["three_crops"]), case
        expected = (validation["resized"], [validation["center_crop"]])
        assert sizes_and_crops(rule, crop, case, 1) == expected, case


def test_gluoncv_i3d_crops(golden: Cases):
    assert golden["gluoncv_i3d"]["spatial"]
    for case in golden["gluoncv_i3d"]["spatial"]:
        crop = Crop(kind="gluoncv_i3d", size_px=case["crop_shape"][0])
        size = [case["height"], case["width"]]
        rule = resize("gluonmm", case["short_side"], case["short_side"])
        assert sizes_and_crops(rule, crop, case, 3) == (size, case["crops"]), case
        assert sizes_and_crops(rule, crop, case, 1) == (size, case["crops"][1:2]), case


def sizes_and_crops(rule: Resize, crop: Crop, case: Cases, num_crops: int) -> tuple[list[int], list[list[int]]]:
    height, width = resized_size(rule, height=case["height"], width=case["width"], num_crops=num_crops)
    offsets: list[list[int]] = crop_offsets(crop, height=height, width=width, num_crops=num_crops).tolist()
    return [height, width], offsets


def cut_views(clips: list[list[int]], crops: list[list[int]]) -> Any:
    """Frame number and x offset of every frame of every view, ``[K, R, t, 2]``, read from what was cut."""
    num_frames, size = 1 + max(map(max, clips)), 4
    frames = np.zeros((num_frames, size, size + max(x for _, x in crops), 3), np.uint8)
    frames[..., 0] = np.arange(num_frames)[:, None, None]
    frames[..., 1] = np.arange(frames.shape[2])
    plan = plan_units(np.array(clips), unit_frames=len(clips[0]))
    rows = cut_units(frames[plan.frames], plan.unit_frames, np.array(crops, np.int32), size_px=size)
    return rows[:, :, 0, 0, :2].reshape(len(clips), len(crops), -1, 2)


def test_the_references_order_views_crop_by_crop(golden: Cases):
    """Ours are in the order of clips: a transposition, which no mean and no sum sees."""
    expected = [[view["first_frame"], view["x_offset"]] for view in golden["scenic"]["view_order"]]
    views = cut_views([[0], [8]], [[0, 0], [0, 2], [0, 4]])
    assert views.reshape(-1, 2).tolist() != expected
    assert views.swapaxes(0, 1).reshape(-1, 2).tolist() == expected

    expected = [[view["frame"], view["x_offset"]] for view in golden["gluonmm"]["view_order_2clips_of_2frames"]]
    crops = crop_offsets(Crop(kind="gluonmm", size_px=4), height=4, width=8, num_crops=3).tolist()
    views = cut_views([[0, 1], [2, 3]], crops)
    assert views.swapaxes(0, 1).reshape(-1, 2).tolist() == expected
