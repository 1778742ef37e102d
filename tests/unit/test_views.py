"""What a request needs of a video: clips of any number and length, each distinct unit once, and when they are shown."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import protocol_names, video_clocks

from tubelet.preprocess.timeline import VideoClock, constant_clock
from tubelet.preprocess.views import ViewPlan, plan_views
from tubelet.spec.errors import LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.pipeline import FullVideo, Sampler
from tubelet.spec.protocol import ANY_CLIPS, ANY_FULL
from tubelet.spec.request import Request

MakeContract = Callable[..., Contract]

LIMITS = Limits(max_views=10**6, max_units=10**6)
KINDS = ("scenic", "pyslowfast", "gluonmm", "gluoncv_i3d")


def any_contract(contract: Contract, kind: str = "scenic") -> Contract:
    """The contract with another sampler, and all protocols that its network can have."""
    full = ("full", ANY_FULL) if contract.full_video is not None else ()
    sampler = Sampler(
        kind=kind,  # type: ignore[arg-type]
        num_frames=contract.sampler.num_frames,
        stride=contract.sampler.stride,
        target_fps=25.0 if kind == "pyslowfast" else None,
        short_video="wrap" if kind == "scenic" else "repeat_last",
    )
    return replace(contract, sampler=sampler, protocols=("tsn", ANY_CLIPS, *full), default_protocol="1x1")


def plan(contract: Contract, clock: VideoClock, limits: Limits = LIMITS, **parameters: object) -> ViewPlan:
    request = Request.from_parameters(parameters, contract, limits)
    return plan_views(clock, request=request, contract=contract, limits=limits)


def clips_of(found: ViewPlan) -> list[list[int]]:
    """Numbers of frames in the whole video, clip by clip."""
    units = found.units
    return units.frames[units.unit_frames[units.clip_units]].reshape(len(units.clip_units), -1).tolist()


@given(video_clocks(), protocol_names, st.sampled_from(KINDS), st.sampled_from([1, 2, 4]), st.data())
def test_every_unit_is_planned_once_and_every_clip_is_whole(
    make_vtn_contract: MakeContract, clock, protocol, kind, unit_frames, data
):
    """Counted by hand: sets of the tuples of frames that the clips are made of."""
    contract = any_contract(make_vtn_contract(), kind)
    contract = replace(contract, geometry=replace(contract.geometry, unit_frames=unit_frames), full_video=FULL)
    if protocol.startswith("full") and protocol != "full":
        protocol = f"full{int(protocol[4:]) * unit_frames}"
    start = data.draw(st.integers(0, clock.num_frames - 1))
    end = data.draw(st.integers(start + 1, clock.num_frames))
    end_s = float(clock.times[end]) if end < clock.num_frames else 1e9
    found = plan(contract, clock, protocol=protocol, start_s=float(clock.times[start]), end_s=end_s)
    clips = clips_of(found)
    units = [tuple(clip[i : i + unit_frames]) for clip in clips for i in range(0, len(clip), unit_frames)]
    assert len(found.units.unit_frames) == len(set(units))
    assert found.units.clip_units.size == len(units)
    assert found.units.frames.tolist() == sorted({frame for clip in clips for frame in clip})
    assert start <= min(map(min, clips))
    assert max(map(max, clips)) < end
    assert found.num_frames == end - start
    assert found.frame_times.tolist() == [clock.times[clip].astype(np.float32).tolist() for clip in clips]


FULL = FullVideo(num_frames=12, span_s=None)


@given(video_clocks(), protocol_names, st.sampled_from(KINDS))
def test_spans_hold_all_frames_of_their_clips_from_their_first_to_their_last_moment(
    make_vtn_contract: MakeContract, clock, protocol, kind
):
    found = plan(replace(any_contract(make_vtn_contract(), kind), full_video=FULL), clock, protocol=protocol)
    assert found.clip_spans.shape == (len(found.frame_times), 2)
    assert found.clip_spans.dtype == np.float32
    ends = [*clock.times[1:].tolist(), float(clock.times[-1]) + clock.interval_s]
    for (start, end), clip in zip(found.clip_spans, clips_of(found), strict=True):
        assert start == np.float32(min(clock.times[number] for number in clip))
        assert end == np.float32(max(ends[number] for number in clip))


def test_spans_of_a_plain_video(make_contract: MakeContract) -> None:
    """4 frames at stride 2, 25 a second: a clip lasts from its first frame to the end of its seventh."""
    contract = any_contract(make_contract())
    found = plan(contract, constant_clock(100, fps=25.0), protocol="3x1")
    expected = [[start / 25, (start + 7) / 25] for start in (0, 46, 92)]
    np.testing.assert_allclose(found.clip_spans, expected, rtol=1e-6)
    assert found.clip_spans[-1, 1] < 4
    part = plan(contract, constant_clock(100, fps=25.0), protocol="1x1", start_s=2, end_s=2.28)
    np.testing.assert_allclose(part.clip_spans, [[2, 2.28]], rtol=1e-6)


def test_a_frame_is_shown_until_the_next_one(make_contract: MakeContract) -> None:
    times = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 9.0])
    clock = VideoClock(times=times, interval_s=0.1, fps=10.0, ticks=None)
    contract = any_contract(make_contract(stride=1, clip_frames=2))
    assert clips_of(plan(contract, clock, protocol="3x1")) == [[0, 1], [2, 3], [4, 5]]
    np.testing.assert_allclose(
        plan(contract, clock, protocol="3x1").clip_spans, [[0, 0.2], [0.2, 5.1], [5.1, 9.1]], rtol=1e-6
    )
    # The part ends, the frame does not: what is said is when it was shown.
    np.testing.assert_allclose(plan(contract, clock, protocol="1x1", end_s=0.3).clip_spans, [[0, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(
        plan(contract, clock, protocol="1x1", start_s=0.15, end_s=4).clip_spans, [[0.2, 5]], rtol=1e-6
    )


def test_a_clip_that_starts_again_spans_the_whole_short_video(make_contract: MakeContract) -> None:
    contract = any_contract(make_contract(clip_frames=4, stride=1))
    found = plan(contract, constant_clock(3, fps=10.0), protocol="2x1")
    assert clips_of(found) == [[0, 1, 2, 0]] * 2
    np.testing.assert_allclose(found.clip_spans, [[0, 0.3]] * 2, rtol=1e-6)


@pytest.mark.parametrize("num_frames", [1, 7, 250, 4096])
@pytest.mark.parametrize("length", [1, 100, 300])
def test_the_whole_video_in_any_number_of_frames(make_vtn_contract: MakeContract, num_frames, length) -> None:
    """At even steps, both ends included; a video shorter than that repeats frames, and encodes none of them twice."""
    contract, clock = any_contract(make_vtn_contract(span_s=None)), constant_clock(length, fps=25.0)
    found = plan(contract, clock, Limits(), protocol=f"full{num_frames}")
    (clip,) = clips_of(found)
    assert len(clip) == num_frames
    assert clip[0] == 0
    assert clip[-1] == (length - 1 if num_frames > 1 else 0)
    gaps = np.diff(clip)
    assert num_frames == 1 or gaps.max() - gaps.min() <= 1
    assert len(found.units.unit_frames) == len(set(clip)) == min(num_frames, length)
    assert found.clip_positions.tolist() == [clip]
    assert found.has_full_clip == (num_frames <= length)


def test_its_number_of_frames_is_all_that_a_numbered_whole_video_changes(make_vtn_contract: MakeContract) -> None:
    for span_s in (None, 10.0):
        contract, clock = any_contract(make_vtn_contract(num_full=250, span_s=span_s)), constant_clock(600, fps=30.0)
        named, numbered = (plan(contract, clock, protocol=name, start_s=1) for name in ("full", "full250"))
        assert clips_of(named) == clips_of(numbered)
        (fewer,) = clips_of(plan(contract, clock, protocol="full64", start_s=1))
        assert (fewer[0], fewer[-1]) == (clips_of(named)[0][0], clips_of(named)[0][-1])


def test_units_of_all_crops_count_for_the_limit(make_contract: MakeContract) -> None:
    contract, clock = any_contract(make_contract()), constant_clock(1000, fps=25.0)
    assert len(plan(contract, clock, Limits(max_units=120), protocol="20x3").units.unit_frames) == 40
    with pytest.raises(LimitError, match="protocol 20x3 needs 120 units of this video, max_units is 119") as caught:
        plan(contract, clock, Limits(max_units=119), protocol="20x3")
    assert caught.value.code == "too_many_views"


def test_clips_without_number_share_the_units_of_a_short_video(make_contract: MakeContract) -> None:
    """Thousands of clips of eight frames are four different ones at most."""
    contract = any_contract(make_contract(clip_frames=4, stride=1))
    found = plan(contract, constant_clock(8, fps=25.0), protocol="9999x3")
    assert found.units.clip_units.shape == (9999, 2)
    assert sorted(set(map(tuple, clips_of(found)))) == [tuple(range(i, i + 4)) for i in range(5)]
    assert len(found.units.unit_frames) == 7
