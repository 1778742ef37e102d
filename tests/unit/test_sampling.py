"""Which frames make a clip, and which distinct units make the clips."""

from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import pytest
from av.filter import Graph
from hypothesis import given
from hypothesis import strategies as st

from tubelet.preprocess.sampling import plan_units, resample, sample_clips, scenic_clips, tsn_clips
from tubelet.spec.manifest import Contract
from tubelet.spec.protocol import Protocol

frame_counts = st.integers(1, 20_000)


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


def test_protocol_chooses_the_sampler(make_contract: Callable[..., Contract]):
    contract = make_contract(clip_frames=4, stride=2)
    assert sample_clips(contract, Protocol.parse("tsn"), 100).tolist() == [[12, 37, 62, 87]]
    assert sample_clips(contract, Protocol.parse("1x1"), 100).tolist() == [[46, 48, 50, 52]]
    assert sample_clips(contract, Protocol.parse("4x3"), 100)[:, 0].tolist() == [0, 30, 61, 92]


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
    assert scenic_clips(num_frames, clip_frames=4, stride=2, num_clips=3).shape == (3, 4)
    assert tsn_clips(num_frames, clip_frames=4).shape == (1, 4)
    assert resample(np.zeros(1), interval_s=0.001, target_fps=25).tolist() == [0]
