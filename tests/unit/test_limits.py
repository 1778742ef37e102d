"""Limits have a name and a default, and can be set by name only to numbers that make sense."""

from dataclasses import fields

import pytest

from tubelet.spec.errors import InvalidRequestError
from tubelet.spec.limits import Limits

NAMES = [field.name for field in fields(Limits)]


def test_defaults_are_those_of_the_design() -> None:
    limits = Limits()
    assert limits.max_video_bytes == 256 * 2**20
    assert limits.max_duration_s == 14400
    assert limits.max_decoded_frames == 500_000
    assert (limits.max_views, limits.max_units, limits.queue_size) == (64, 4096, 64)
    assert (limits.decode_timeout_s, limits.default_deadline_s) == (60, 300)
    assert limits.max_frame_pixels >= 4096 * 2304


@pytest.mark.parametrize("name", NAMES)
def test_each_limit_can_be_set_by_its_name(name: str) -> None:
    changed = Limits().override([f"{name}=7"])
    assert getattr(changed, name) == 7
    assert type(getattr(changed, name)) is type(getattr(Limits(), name))
    assert [getattr(changed, other) for other in NAMES if other != name] == [
        getattr(Limits(), other) for other in NAMES if other != name
    ]


def test_several_assignments_and_the_last_one_counts() -> None:
    assert Limits().override(["max_views=3", "queue_size=2", "max_views=4"]) == Limits(max_views=4, queue_size=2)
    assert Limits().override([]) == Limits()


def test_seconds_may_have_a_fraction_and_counts_may_not() -> None:
    assert Limits().override(["decode_timeout_s=0.5"]).decode_timeout_s == 0.5
    with pytest.raises(InvalidRequestError, match=r"limit max_views must be int, got '2\.5'"):
        Limits().override(["max_views=2.5"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("max_cats=3", "no limit is called 'max_cats'; there are max_video_bytes"),
        ("=3", "no limit is called ''"),
        ("max_views", "limit max_views must be int, got ''"),
        ("max_views=many", "limit max_views must be int, got 'many'"),
        ("max_views=0", "must be a positive number"),
        ("max_duration_s=-1", "must be a positive number"),
        ("max_duration_s=nan", "must be a positive number"),
        ("max_duration_s=inf", "must be a positive number"),
        ("max_units=3000000000", "must be a positive number up to 2147483647"),
        ("default_deadline_s=1e300", "must be a positive number up to 2147483647"),
    ],
)
def test_unfit_assignments_are_named(assignment: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        Limits().override([assignment])
    assert caught.value.code == "bad_parameter"


@pytest.mark.parametrize("value", [0, -1, True, "64", None])
def test_limits_are_positive_numbers(value: object) -> None:
    with pytest.raises(InvalidRequestError, match="limit queue_size must be a positive number"):
        Limits(queue_size=value)  # type: ignore[arg-type]
