"""Request parameters: what is allowed comes through, everything else is an error that says what is."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.spec.errors import InvalidRequestError, LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.pipeline import FullVideo
from tubelet.spec.protocol import Protocol
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


@given(st.text(max_size=8))
def test_a_protocols_name_is_read_or_refused(name: str) -> None:
    try:
        protocol = Protocol.parse(name)
    except ValueError:
        return
    assert protocol.name == name
    assert protocol.num_views >= 1


@pytest.mark.parametrize(
    ("name", "clips", "crops"), [("1x1", 1, 1), ("4x3", 4, 3), ("10x3", 10, 3), ("tsn", 1, 1), ("full", 1, 1)]
)
def test_protocols_of_the_papers(name: str, clips: int, crops: int) -> None:
    assert Protocol.parse(name) == Protocol(name, clips, crops)


@pytest.mark.parametrize(
    "name", ["0x1", "1x2", "1x0", "01x1", "1x1 ", "-1x3", "99999x1", "fully", "", "1X1", "\u0661x1"]
)
def test_other_names_are_no_protocols(name: str) -> None:
    with pytest.raises(ValueError, match="a protocol is"):
        Protocol.parse(name)
