"""A promise: how it is written, what it is judged by, and what is refused before any load."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured_loads import measurement, scenario

from tubelet.loadtest.measured import Measurement, Promised
from tubelet.loadtest.promise import Clause, check_names, error_share, judge, parse_promise
from tubelet.spec.errors import ScenarioError

TWO_STREAMS = {"single": "interactive", "views": "interactive", "tapes": "archive"}


def _judge(text: str, found: Measurement) -> Promised:
    (promised,) = judge(parse_promise(text), found)
    return promised


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("p99 <= 500 ms", "p99 <= 500 ms"),
        ("p99<=500ms", "p99 <= 500 ms"),
        ("  p99.9   <=  1.50 s ", "p99.9 <= 1.5 s"),
        ("errors<=0.1%", "errors <= 0.1 %"),
        ("rate >= 20 /s", "rate >= 20 /s"),
        ("rate>=20/s", "rate >= 20 /s"),
        ("goodput >= 80 %", "goodput >= 80 %"),
        ("interactive p99 <= 1 s", "interactive p99 <= 1 s"),
        ("two words mean <= 12 ms", "two words mean <= 12 ms"),
        ("p50 p50 <= 12 ms", "p50 p50 <= 12 ms"),
        ("interactive\n  max <= 3600000 ms", "interactive max <= 3600000 ms"),
    ],
)
def test_a_clause_is_forgiving_about_spaces_only(text: str, shown: str) -> None:
    (clause,) = parse_promise(text)
    assert str(clause) == shown
    assert parse_promise(shown) == (clause,)


def test_clauses_are_separated_by_commas() -> None:
    assert parse_promise("p99 <= 500 ms, errors <= 0.1 %,clips rate >= 3 /s") == (
        Clause(name=None, quantity="p99", limit=500.0, unit="ms"),
        Clause(name=None, quantity="errors", limit=0.1, unit="%"),
        Clause(name="clips", quantity="rate", limit=3.0, unit="/s"),
    )


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_nothing_is_promised(text: str) -> None:
    assert parse_promise(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "p99 <= 500",
        "p99 < 500 ms",
        "p98 <= 500 ms",
        "p99 500 ms",
        "<= 500 ms",
        "p99 <= ms",
        "p99 <= -5 ms",
        "p99 <= 1e3 ms",
        "p99 <= 1,5 s",
        "p99 <= 500 ms,",
        "P99 <= 500 ms",
        "p99 <= 500 ms errors <= 1 %",
        "interactivep99 <= 500 ms",
    ],
)
def test_what_is_no_clause_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ScenarioError, match=r"NUMBER UNIT.*An example: p99 <= 500 ms") as caught:
        parse_promise(text)
    assert caught.value.code == "bad_scenario"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p99 >= 500 ms", "p99 <= NUMBER ms or s"),
        ("p99 <= 500 us", "p99 <= NUMBER ms or s"),
        ("errors <= 1 /s", "errors <= NUMBER %"),
        ("errors >= 1 %", "errors <= NUMBER %"),
        ("rate <= 20 /s", "rate >= NUMBER /s"),
        ("rate >= 20 %", "rate >= NUMBER /s"),
        ("goodput >= 101 %", "at most 100 %"),
    ],
)
def test_a_promise_that_cannot_be_meant_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ScenarioError, match=expected):
        parse_promise(text)


def test_names_must_be_those_of_streams_or_requests() -> None:
    asked = scenario(TWO_STREAMS)
    check_names(parse_promise("p99 <= 1 s, archive p99 <= 1 s, views errors <= 1 %"), asked)
    with pytest.raises(ScenarioError, match=r"'batch'.*streams interactive, archive.*requests single, tapes, views"):
        check_names(parse_promise("batch p99 <= 1 s"), asked)


def test_a_name_that_means_two_things_is_refused() -> None:
    clauses = parse_promise("live p99 <= 1 s")
    check_names(clauses, scenario({"live": "live"}))
    with pytest.raises(ScenarioError, match="rename"):
        check_names(clauses, scenario({"live": "live", "other": "live"}))
    with pytest.raises(ScenarioError, match="rename"):
        check_names(clauses, scenario({"live": "archive", "other": "live"}))


def test_latency_is_judged_in_the_clauses_unit() -> None:
    found = measurement({"clips": [100.0] * 90 + [2000.0] * 10})
    assert _judge("p50 <= 100.1 ms", found).kept
    slow = _judge("p99 <= 1.9 s", found)
    assert slow.found == pytest.approx(2.0, rel=1e-3)
    assert (slow.clause, slow.kept) == ("p99 <= 1.9 s", False)
    assert _judge("max <= 2.01 s", found).kept
    assert _judge("mean <= 1 s", found).found == pytest.approx(0.29, rel=1e-3)
    assert _judge("p90 <= 101 ms", found).kept
    assert not _judge("p95 <= 101 ms", found).kept


def test_p99_9_is_not_p99() -> None:
    found = measurement({"clips": [10.0] * 1995 + [3000.0] * 5})
    assert _judge("p99 <= 11 ms", found).kept
    assert not _judge("p99.9 <= 11 ms", found).kept


def test_the_limit_itself_keeps_the_promise() -> None:
    found = measurement({"clips": [10.0] * 100}, failed={"clips": range(10)})
    assert _judge("errors <= 10 %", found) == Promised(clause="errors <= 10 %", found=10.0, kept=True)
    assert not _judge("errors <= 9.99 %", found).kept
    assert _judge("goodput >= 90 %", found).kept
    assert not _judge("goodput >= 90.1 %", found).kept
    assert _judge("rate >= 4.5 /s", found) == Promised(clause="rate >= 4.5 /s", found=4.5, kept=True)
    assert not _judge("rate >= 4.6 /s", found).kept


def test_what_was_cut_off_is_no_error_but_no_answer_either() -> None:
    found = measurement({"clips": [10.0] * 80}, failed={"clips": range(8)}, cut_off=20)
    assert _judge("errors <= 10 %", found).found == pytest.approx(10.0)
    assert _judge("goodput >= 80 %", found).found == pytest.approx(72.0)


def test_a_stream_is_all_its_kinds() -> None:
    asked = scenario(TWO_STREAMS)
    times = {"single": [10.0] * 60, "views": [500.0] * 40, "tapes": [3000.0] * 100}
    found = measurement(times, of=asked, failed={"views": range(10)})
    assert _judge("interactive p50 <= 11 ms", found).kept
    assert _judge("interactive max <= 501 ms", found).kept
    assert not _judge("max <= 501 ms", found).kept
    assert _judge("interactive errors <= 10 %", found).found == pytest.approx(10.0)
    assert _judge("views errors <= 25 %", found).found == pytest.approx(25.0)
    assert _judge("archive p50 <= 3.1 s", found).kept
    assert _judge("tapes p50 <= 3.1 s", found).kept
    shares = [_judge(f"{name} rate >= 1 /s", found).found for name in ("interactive", "archive")]
    assert sum(shares) == pytest.approx(found.rate)


@pytest.mark.parametrize("quantity", ["p50", "p90", "p95", "p99", "p99.9", "max", "mean"])
def test_a_latency_of_nothing_is_not_kept(quantity: str) -> None:
    failed = measurement({"clips": [10.0] * 5}, failed={"clips": range(5)})
    assert _judge(f"{quantity} <= 1 s", failed) == Promised(clause=f"{quantity} <= 1 s", found=0.0, kept=False)


def test_no_request_keeps_no_promise() -> None:
    found = measurement({"single": [10.0], "views": [], "tapes": []}, of=scenario(TWO_STREAMS))
    for text in ("views errors <= 100 %", "views goodput >= 0 %", "views rate >= 0 /s", "archive p50 <= 9 s"):
        assert not _judge(text, found).kept
        assert _judge(text.replace("views", "single").replace("archive", "single"), found).kept


def test_the_promise_of_a_scenario_is_judged_clause_by_clause() -> None:
    asked = scenario(promise="p99 <= 5 ms, errors <= 1 %")
    assert [clause.kept for clause in measurement({"clips": [10.0] * 100}, of=asked).promised] == [False, True]


def test_the_share_of_errors_leaves_out_what_was_cut_off() -> None:
    kind = measurement({"clips": [10.0] * 4}, failed={"clips": [0]}, cut_off=4).together
    assert error_share([kind]) == pytest.approx(0.25)
    assert error_share([replace(kind, answered=0, errors={})]) == 0


@given(
    name=st.none() | st.from_regex(r"[a-z][a-z0-9._-]{0,8}( [a-z]{1,5})?", fullmatch=True),
    quantity=st.sampled_from(["p50", "p99", "p99.9", "max", "mean"]),
    limit=st.floats(0, 1e6).map(lambda value: round(value, 3)),
    unit=st.sampled_from(["ms", "s"]),
)
def test_what_is_shown_is_what_was_meant(name: str | None, quantity: str, limit: float, unit: str) -> None:
    clause = Clause(name=name, quantity=quantity, limit=limit, unit=unit)
    assert parse_promise(str(clause)) == (clause,)
