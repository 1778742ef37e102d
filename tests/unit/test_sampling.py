"""Which frames make a clip, and which distinct units make the clips."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.filter import Graph
from hypothesis import given
from hypothesis import strategies as st

from tubelet.preprocess.pyslowfast import clip_bounds, decoded_spans, full_video_clip, linspace, multi_view_clips
from tubelet.preprocess.samplers import gluoncv_i3d_clips, gluonmm_clips, scenic_clips, tsn_clips
from tubelet.preprocess.sampling import plan_units, resample, sample_clips
from tubelet.preprocess.timeline import VideoClock, constant_clock
from tubelet.spec.manifest import Contract
from tubelet.spec.pipeline import Sampler
from tubelet.spec.protocol import Protocol

frame_counts = st.integers(1, 20_000)
numbers = st.tuples(frame_counts, st.integers(1, 64), st.integers(1, 8), st.integers(1, 30))


def without_duration(clock: VideoClock) -> VideoClock:
    return replace(clock, ticks=None)


@given(frame_counts, st.integers(1, 64), st.integers(1, 8), st.integers(1, 30))
def test_scenic_clips_step_by_the_stride_and_wrap_around(num_frames, clip_frames, stride, num_clips):
    clips = scenic_clips(num_frames, clip_frames=clip_frames, stride=stride, num_clips=num_clips)
    assert clips.shape == (num_clips, clip_frames)
    assert clips.dtype == np.int64
    assert clips.min() >= 0
    assert clips.max() < num_frames
    assert (np.diff(clips, axis=1) % num_frames == stride % num_frames).all()
    assert (np.diff(clips[:, 0]) >= 0).all()


@given(frame_counts, st.integers(1, 64), st.integers(1, 8), st.integers(2, 30))
def test_scenic_clips_reach_from_the_first_frame_to_the_end(num_frames, clip_frames, stride, num_clips):
    starts = scenic_clips(num_frames, clip_frames=clip_frames, stride=stride, num_clips=num_clips)[:, 0]
    slack = max(0, num_frames - clip_frames * stride)
    assert starts[0] == 0
    assert starts[-1] == slack
    assert np.abs(starts - np.linspace(0, slack, num_clips)).max() <= 1


@given(frame_counts, st.integers(1, 64))
def test_tsn_takes_the_middle_of_each_segment(num_frames, clip_frames):
    clips = tsn_clips(num_frames, clip_frames=clip_frames)
    exact = [int(Fraction(num_frames, clip_frames) * Fraction(2 * i + 1, 2)) for i in range(clip_frames)]
    assert clips.tolist() == [exact]


@given(numbers)
def test_gluonmm_clips_begin_at_even_steps_and_stay_at_their_last_frame(drawn):
    num_frames, clip_frames, stride, num_clips = drawn
    clips = gluonmm_clips(num_frames, clip_frames=clip_frames, stride=stride, num_clips=num_clips)
    for x, clip in enumerate(clips.tolist()):
        has_room = num_frames >= clip_frames * stride
        expected = [int((num_frames - clip_frames * stride + 1) / num_clips * x) if has_room else 0]
        while len(expected) < clip_frames:
            expected.append(expected[-1] + stride if expected[-1] + stride < num_frames else expected[-1])
        assert clip == expected


@given(numbers)
def test_gluoncv_i3d_clips_lie_among_every_stride_th_frame(drawn):
    num_frames, clip_frames, stride, num_clips = drawn
    clips = gluoncv_i3d_clips(num_frames, clip_frames=clip_frames, stride=stride, num_clips=num_clips)
    read = list(range(0, num_frames, stride))
    step = max((len(read) - clip_frames) / (num_clips - 1), 0) if num_clips > 1 else 0
    read += read[-1:] * clip_frames
    assert clips.tolist() == [read[int(c * step) :][:clip_frames] for c in range(num_clips)]


@given(
    st.lists(st.tuples(st.integers(0, 50_000), st.integers(-1000, 500_000)), min_size=1, max_size=4),
    st.sampled_from([1, 2, 3, 16, 64, 250]),
)
def test_linspace_is_that_of_torch(clips, num):
    starts = np.array([start / 10 for start, _ in clips])
    ends = starts + [length / 1001 for _, length in clips]
    found = linspace(starts, ends, num)
    assert found.dtype == np.float32
    expected = torch.stack([torch.linspace(*edges, num) for edges in zip(starts, ends, strict=True)])
    np.testing.assert_array_equal(found, expected.numpy())


def pyslowfast_by_hand(ticks: list[int], fps: float, *, num_clips: int) -> tuple[list[Any], list[Any]]:
    """16 x 8 at 25 fps with loops over frames, as seeking and decoding does it."""
    *pts, duration = ticks
    length = 8 * 16 / 25 * fps
    all_frames, all_positions = [], []
    for c in range(num_clips):
        start = max(len(pts) - length, 0) * c / num_clips
        begin, end = (int(edge * (duration / len(pts))) for edge in (start, start + length - 1))
        span = []
        for number, stamp in enumerate(pts):
            if stamp >= begin:
                span.append(number)
            if stamp > end:
                break
        positions = torch.clamp(torch.linspace(0, length - 1, 16), 0, len(span) - 1).long().tolist()
        all_positions.append(positions)
        all_frames.append([span[position] for position in positions])
    return all_frames, all_positions


@given(
    st.lists(st.integers(400, 600), min_size=2, max_size=300),
    st.sampled_from([10.0, 24.0, 25.0, 29.97, 30.0, 59.94]),
    st.integers(1, 12),
)
def test_pyslowfast_clips_are_the_spans_that_seeking_finds(gaps, fps, num_clips):
    """At a rate that varies, too, as long as every clip's span holds a frame, which the reference takes for granted."""
    ticks = np.concatenate(([0], np.cumsum(gaps)))
    clock = VideoClock(times=ticks[:-1] / 12_800, interval_s=0.04, fps=fps, ticks=ticks)
    frames, positions = multi_view_clips(clock, clip_frames=16, stride=8, target_fps=25.0, num_clips=num_clips)
    expected_frames, expected_positions = pyslowfast_by_hand(ticks.tolist(), fps, num_clips=num_clips)
    assert frames.tolist() == expected_frames
    assert positions.tolist() == expected_positions


@given(
    st.lists(st.sampled_from([1, 2, 1000, 10**9, 10**14]), min_size=1, max_size=30),
    st.sampled_from([1e-6, 0.1, 25.0, 1000.0]),
    st.integers(1, 64),
    st.integers(1, 12),
)
def test_pyslowfast_clips_stay_inside_whatever_the_header_says(gaps, fps, clip_frames, num_clips):
    ticks = np.concatenate(([0], np.cumsum(gaps)))
    num_frames = len(gaps)
    clock = VideoClock(times=ticks[:-1] / 1000, interval_s=1.0, fps=fps, ticks=ticks)
    first, count = decoded_spans(ticks, clip_bounds(num_frames, length=8 * clip_frames * fps, num_clips=num_clips))
    assert (count >= 1).all()
    assert (first + count <= num_frames).all()
    for some in (clock, without_duration(clock)):
        for found in multi_view_clips(some, clip_frames=clip_frames, stride=8, target_fps=25.0, num_clips=num_clips):
            assert found.shape == (num_clips, clip_frames)
            assert found.dtype == np.int64
            assert found.min() >= 0
            assert found.max() < num_frames
        full = full_video_clip(some, clip_frames=clip_frames, span_s=10.0)
        assert full.shape == (1, clip_frames)
        assert full.min() >= 0
        assert full.max() < num_frames


def test_a_full_video_is_ten_seconds_as_coded_and_all_of_it_as_in_the_paper():
    minute = constant_clock(1500, fps=25.0)
    assert full_video_clip(minute, clip_frames=250, span_s=10.0)[0, [0, 1, -1]].tolist() == [0, 1, 249]
    assert full_video_clip(minute, clip_frames=250, span_s=None)[0, [0, 1, -1]].tolist() == [0, 6, 1499]
    ten_seconds = constant_clock(250, fps=25.0)
    assert full_video_clip(ten_seconds, clip_frames=250, span_s=None).tolist() == [list(range(250))]
    assert full_video_clip(ten_seconds, clip_frames=1, span_s=None).tolist() == [[0]]


def test_protocol_chooses_the_sampler(make_contract: Callable[..., Contract], make_vtn_contract):
    contract, clock = make_contract(clip_frames=4, stride=2), constant_clock(100, fps=25.0)
    assert sample_clips(contract, Protocol.parse("tsn"), clock).frames.tolist() == [[12, 37, 62, 87]]
    assert sample_clips(contract, Protocol.parse("1x1"), clock).frames.tolist() == [[46, 48, 50, 52]]
    four = sample_clips(contract, Protocol.parse("4x3"), clock)
    assert four.frames[:, 0].tolist() == [0, 30, 61, 92]
    assert four.positions.tolist() == four.frames.tolist()
    full = sample_clips(make_vtn_contract(num_full=5, span_s=None), Protocol.parse("full"), clock)
    assert full.frames.tolist() == full.positions.tolist() == [[0, 24, 49, 74, 99]]
    three = sample_clips(make_vtn_contract(num_full=5, span_s=2.0), Protocol.parse("full3"), clock)
    assert three.frames.tolist() == three.positions.tolist() == [[0, 24, 49]]


@pytest.mark.parametrize(
    ("kind", "starts"), [("scenic", [0, 42, 84]), ("gluonmm", [0, 28, 56]), ("gluoncv_i3d", [0, 40, 84])]
)
def test_samplers_that_count_do_so_in_the_video_at_the_target_rate(kind: Any, starts, make_contract):
    short_video: Any = "wrap" if kind == "scenic" else "repeat_last"
    sampler = Sampler(kind=kind, num_frames=4, stride=4, target_fps=25.0, short_video=short_video)
    clock = constant_clock(300, fps=75.0)
    clips = sample_clips(replace(make_contract(), sampler=sampler), Protocol("3x1", 3, 1), clock)
    # Of three frames the second is the nearest to the time of the one that stays.
    assert clips.frames.tolist() == [[3 * (start + 4 * k) + 1 for k in range(4)] for start in starts]
    assert clips.positions.tolist() == clips.frames.tolist()


def test_pyslowfast_stretches_its_clips_to_the_target_rate(make_contract):
    sampler = Sampler(kind="pyslowfast", num_frames=4, stride=4, target_fps=25.0, short_video="repeat_last")
    contract, clock = replace(make_contract(), sampler=sampler), constant_clock(300, fps=75.0)
    spans = sample_clips(contract, Protocol("3x1", 3, 1), clock)
    assert spans.frames.tolist() == [[0, 15, 31, 47], [84, 99, 115, 131], [168, 183, 199, 215]]
    assert spans.positions.tolist() == [[0, 15, 31, 47]] * 3
    whole = sample_clips(contract, Protocol("3x1", 3, 1), without_duration(clock))
    assert whole.positions.tolist() == whole.frames.tolist() == spans.frames.tolist()


def test_a_part_is_a_video_of_its_own(make_vtn_contract: Callable[..., Contract]):
    contract, whole = make_vtn_contract(), constant_clock(400, fps=25.0)
    part = whole.part(slice(100, 350))
    assert part.num_frames == 250
    assert part.times[0] == 4.0
    for protocol in map(Protocol.parse, ("10x3", "full")):
        found, expected = (sample_clips(contract, protocol, clock) for clock in (part, constant_clock(250, fps=25.0)))
        np.testing.assert_array_equal(found.frames, expected.frames)
        np.testing.assert_array_equal(found.positions, expected.positions)


@given(st.integers(1, 400), st.integers(1, 8), st.integers(1, 4), st.integers(1, 10), st.integers(1, 12))
def test_planned_units_give_the_clips_back(num_frames, units_per_clip, unit_frames, stride, num_clips):
    clips = scenic_clips(num_frames, clip_frames=units_per_clip * unit_frames, stride=stride, num_clips=num_clips)
    plan = plan_units(clips, unit_frames=unit_frames)
    assert plan.frames.dtype == np.int64
    assert plan.unit_frames.dtype == plan.clip_units.dtype == np.int32
    assert plan.clip_units.shape == (num_clips, units_per_clip)
    assert (plan.frames[plan.unit_frames[plan.clip_units]].reshape(clips.shape) == clips).all()
    assert (np.diff(plan.frames) > 0).all()
    assert len({tuple(unit) for unit in plan.unit_frames.tolist()}) == len(plan.unit_frames)
    assert set(plan.unit_frames.ravel().tolist()) == set(range(len(plan.frames)))
    assert set(plan.clip_units.ravel().tolist()) == set(range(len(plan.unit_frames)))


def test_overlapping_clips_share_units():
    clips = np.array([[0, 1, 2, 3], [2, 3, 4, 5]])
    plan = plan_units(clips, unit_frames=2)
    assert plan.unit_frames.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert plan.clip_units.tolist() == [[0, 1], [1, 2]]


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=40),
    st.sampled_from([Fraction(1), Fraction(10), Fraction(25), Fraction(30_000, 1001), Fraction(60)]),
)
def test_resample_does_what_the_fps_filter_of_ffmpeg_does(gaps_ms, target):
    stamps = np.concatenate(([0], np.cumsum(gaps_ms[:-1])))
    times = stamps / 1000
    found = resample(times, interval_s=gaps_ms[-1] / 1000, target_fps=float(target))
    expected = fps_filter(stamps.tolist(), durations=gaps_ms, rate=target)
    # The filter works in exact fractions; where a time falls on the middle between two ticks the two may part.
    ticks = stamps * target / 1000
    if all(
        abs(tick % 1 - Fraction(1, 2)) > Fraction(1, 10**6)
        for tick in [*ticks, ticks[-1] + gaps_ms[-1] * target / 1000]
    ):
        # Of a video shorter than half a tick the filter gives nothing; we give one frame.
        assert found.tolist() == expected if expected else len(found) == 1


def fps_filter(stamps: list[int], *, durations: list[int], rate: Fraction) -> list[int]:
    """Source frames that FFmpeg's own filter gives; they are told apart by their brightness."""
    graph = Graph()
    source = graph.add_buffer(width=16, height=16, format=av.VideoFormat("gray"), time_base=Fraction(1, 1000))
    filtered, sink = graph.add("fps", str(rate)), graph.add("buffersink")
    source.link_to(filtered)
    filtered.link_to(sink)
    graph.configure()
    found: list[int] = []
    for number, stamp in enumerate(stamps):
        frame = av.VideoFrame.from_ndarray(np.full((16, 16), number, dtype=np.uint8), format="gray")
        frame.pts, frame.time_base, frame.duration = stamp, Fraction(1, 1000), durations[number]
        graph.push(frame)
    graph.push(None)
    while True:
        try:
            found.append(int(graph.pull().to_ndarray()[0, 0]))
        except (av.error.BlockingIOError, av.error.EOFError):
            return found


@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_one_frame_is_enough_for_every_sampler(num_frames):
    for sampler in (scenic_clips, gluonmm_clips, gluoncv_i3d_clips):
        assert sampler(num_frames, clip_frames=4, stride=2, num_clips=3).shape == (3, 4)
    assert tsn_clips(num_frames, clip_frames=4).shape == (1, 4)
    assert resample(np.zeros(1), interval_s=0.001, target_fps=25).tolist() == [0]
