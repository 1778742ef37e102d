"""Request parameters: what is allowed comes through, everything else is an error that says what is."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.spec.bounds import MOST_CLIP_FRAMES
from tubelet.spec.errors import InvalidRequestError, LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.pipeline import FullVideo
from tubelet.spec.protocol import ANY_CLIPS, ANY_FULL, Protocol
from tubelet.spec.request import PARAMETERS, Request
from tubelet.spec.strict import decode

CONTRACT = decode(
    Contract,
    {
        "schema_version": 1,
        "name": "m",
        "network": {
            "family": "vivit",
            "variant": "factorised_encoder",
            "classifier": "token",
            "attention_order": None,
            "sampled_frames": None,
            "num_heads": None,
        },
        "geometry": {
            "unit_frames": 1,
            "feature_dim": 1,
            "positions": False,
            "attention": False,
            "any_length": True,
        },
        "sampler": {"kind": "scenic", "num_frames": 2, "stride": 1, "target_fps": None, "short_video": "wrap"},
        "full_video": None,
        "resize": {
            "kind": "scenic",
            "short_side_px": 8,
            "short_side_three_crops_px": 8,
            "kernel": "bilinear",
            "antialias": False,
            "on": "uint8_truncated",
        },
        "crop": {"kind": "scenic", "size_px": 8},
        "normalisation": {"scale": 1, "mean": [0, 0, 0], "std": [1, 1, 1]},
        "protocols": ["1x1", "4x3", "100x3", "tsn"],
        "default_protocol": "4x3",
        "aggregation": "mean_logits",
        "heads": [{"name": "h", "num_classes": 2, "activation": "softmax", "labels_sha256": ""}],
        "product": None,
    },
    where="contract",
)


def read(**parameters: object) -> Request:
    return Request.from_parameters(parameters, CONTRACT, Limits())


def test_no_parameters_mean_the_whole_video_by_the_default_protocol() -> None:
    assert read() == Request(protocol=Protocol("4x3", 4, 3), start_s=0.0, end_s=math.inf, deadline_s=300.0)


def test_all_parameters_come_through() -> None:
    request = read(protocol="tsn", start_s=1.5, end_s=3, deadline_ms=250)
    assert request == Request(protocol=Protocol("tsn", 1, 1), start_s=1.5, end_s=3.0, deadline_s=0.25)
    assert set(PARAMETERS) == {"protocol", "start_s", "end_s", "deadline_ms"}


@given(start=st.floats(0, 1e6), length=st.floats(1e-3, 1e6), deadline=st.floats(1e-3, 1e9))
def test_numbers_may_come_as_text(start: float, length: float, deadline: float) -> None:
    numbers = {"start_s": start, "end_s": start + length, "deadline_ms": deadline}
    assert read(**numbers) == read(**{name: str(value) for name, value in numbers.items()})


@given(st.floats(1, 1e9))
def test_nobody_gets_more_time_than_the_limit(deadline_ms: float) -> None:
    assert 0 < read(deadline_ms=deadline_ms).deadline_s <= Limits().default_deadline_s


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"protocl": "1x1"}, "unknown parameter 'protocl'; there are protocol, start_s, end_s, deadline_ms"),
        ({"b": 1, "a": 1}, "unknown parameter 'a', 'b'"),
        ({"protocol": "10x3"}, "m has no protocol '10x3'; it has 1x1, 4x3, 100x3, tsn"),
        ({"protocol": "full"}, "m has no protocol 'full'; it has 1x1, 4x3, 100x3, tsn"),
        ({"protocol": 3}, "m has no protocol 3"),
        ({"start_s": "soon"}, "start_s must be a number, got 'soon'"),
        ({"start_s": True}, "start_s must be a number"),
        ({"start_s": None}, "start_s must be a number"),
        ({"start_s": math.nan}, "start_s must be a number"),
        ({"end_s": "inf"}, "end_s must be a number"),
        ({"start_s": -1}, "0 <= start_s < end_s is expected, got -1 and inf"),
        ({"start_s": 3, "end_s": 3}, "0 <= start_s < end_s is expected, got 3 and 3"),
        ({"deadline_ms": 0}, "deadline_ms must be positive, got 0"),
        ({"deadline_ms": -5}, "deadline_ms must be positive"),
    ],
)
def test_unfit_parameters_are_named(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(**parameters)
    assert caught.value.code == "bad_parameter"
    assert message in caught.value.message


def test_the_whole_video_is_a_protocol_of_the_models_that_have_it() -> None:
    full_video = FullVideo(num_frames=250, span_s=10.0)
    contract = replace(CONTRACT, protocols=("full", "1x1"), default_protocol="1x1", full_video=full_video)
    request = Request.from_parameters({"protocol": "full"}, contract, Limits())
    assert request.protocol == Protocol("full", 1, 1)


def test_views_are_limited() -> None:
    with pytest.raises(LimitError, match="100x3 asks for 300 views, max_views is 64") as caught:
        read(protocol="100x3")
    assert caught.value.code == "too_many_views"
    assert Request.from_parameters({"protocol": "100x3"}, CONTRACT, Limits(max_views=300)).protocol.num_views == 300


ANY = replace(
    CONTRACT,
    geometry=replace(CONTRACT.geometry, unit_frames=2),
    protocols=("1x1", "tsn", "full", ANY_CLIPS, ANY_FULL),
    default_protocol="1x1",
    full_video=FullVideo(num_frames=250, span_s=None),
)
"""A model that takes any number of clips, and of frames, two to a unit."""


def read_any(protocol: str, **limits: int) -> Protocol:
    return Request.from_parameters({"protocol": protocol}, ANY, Limits(**limits)).protocol


@given(st.integers(2, 9999), st.sampled_from([1, 3]))
def test_any_number_of_clips_is_allowed_up_to_the_views_of_the_limit(clips: int, crops: int) -> None:
    name, views = f"{clips}x{crops}", clips * crops
    assert read_any(name, max_views=views) == Protocol(name, clips, crops)
    with pytest.raises(LimitError, match=f"protocol {name} asks for {views} views, max_views is {views - 1}") as caught:
        read_any(name, max_views=views - 1)
    assert caught.value.code == "too_many_views"


@given(st.integers(1, MOST_CLIP_FRAMES // 2))
def test_any_number_of_frames_is_allowed_up_to_the_units_of_the_limit(units: int) -> None:
    name = f"full{2 * units}"
    assert read_any(name, max_units=units) == Protocol(name, 1, 1, 2 * units)
    if units > 1:
        with pytest.raises(LimitError, match=f"protocol {name} asks for {units} units, max_units is {units - 1}"):
            read_any(name, max_units=units - 1)


def test_ten_thousand_frames_are_more_than_the_limit_by_default() -> None:
    contract = replace(ANY, geometry=CONTRACT.geometry)
    with pytest.raises(LimitError, match="protocol full10000 asks for 10000 units, max_units is 4096") as caught:
        Request.from_parameters({"protocol": "full10000"}, contract, Limits())
    assert caught.value.code == "too_many_views"
    allowed = Request.from_parameters({"protocol": "full10000"}, contract, Limits(max_units=10_000))
    assert allowed.protocol.num_frames == 10_000


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ("full63", "m takes clips of a multiple of 2 frames, got protocol full63"),
        ("full1", "m takes clips of a multiple of 2 frames, got protocol full1"),
        ("CxR", "m has no protocol 'CxR'; it has 1x1, tsn, full, CxR (any number of clips, 1 or 3 crops), fullN (the"),
        ("fullN", "m has no protocol 'fullN'; it has 1x1, tsn, full, CxR (any number of clips, 1 or 3 crops), fullN"),
        ("4x2", "m has no protocol '4x2'"),
        ("full0", "m has no protocol 'full0'"),
        (f"full{MOST_CLIP_FRAMES + 2}", f"m has no protocol 'full{MOST_CLIP_FRAMES + 2}'"),
    ],
)
def test_what_no_number_can_be_is_named(protocol: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_any(protocol)
    assert caught.value.code == "bad_parameter"
    assert message in caught.value.message
