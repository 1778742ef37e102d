"""Comparing two load tests: what is noise, what is a change, what is a regression, and what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from measured_loads import DURATION_S, measurement, result, scenario, server

from tubelet.loadtest.compared import ComparedFigure, ComparedKind, Comparison
from tubelet.loadtest.comparing import compare_results
from tubelet.loadtest.measured import Measurement, Result, SearchFigures
from tubelet.loadtest.noise import draw_blocks, interval, resample
from tubelet.spec.errors import InvalidRequestError

ONE = scenario()
TWO = scenario({"clips": "interactive", "tapes": "archive"})
SEARCHING = scenario(promise="p99 <= 1 s", search={"least_rate": 1.0, "most_rate": 100.0})


def _times(seed: int, *, factor: float = 1.0, number: int = 1000) -> list[float]:
    """Milliseconds: skewed, and slower or faster for some seconds at a time, as servers are."""
    random = np.random.default_rng(seed)
    level = np.repeat(random.normal(0, 0.05, 40), number // 40)
    return (factor * 50 * np.exp(level + random.normal(0, 0.4, number))).tolist()


@cache
def _run(seed: int, factor: float = 1.0, failed: int = 0, number: int = 1000) -> Measurement:
    wrong = range(0, number, number // failed) if failed else ()
    return measurement({"clips": _times(seed, factor=factor, number=number)}, of=ONE, failed={"clips": wrong})


def _compared(a: Measurement, b: Measurement, *, threshold: float = 0.1) -> Comparison:
    return compare_results(result(a, of=ONE), result(b, of=ONE), threshold=threshold)


def _figures(kind: ComparedKind) -> dict[str, ComparedFigure]:
    return {figure.name: figure for figure in kind.figures}


def test_two_runs_of_the_same_server_are_no_regression() -> None:
    alarms, changed, figures = 0, 0, 0
    for seed in range(20):
        comparison = _compared(_run(seed), _run(seed + 1))
        alarms += comparison.is_regression
        (kind,) = comparison.kinds
        changed += sum(figure.is_changed for figure in kind.figures)
        figures += len(kind.figures)
    assert alarms <= 1
    assert changed <= 0.15 * figures


def test_a_slower_server_is_a_regression_above_the_threshold_only() -> None:
    for seed in range(3):
        slower = _run(100 + seed, factor=1.2)
        comparison = _compared(_run(seed), slower)
        assert comparison.is_regression
        (kind,) = comparison.kinds
        assert _figures(kind)["p50"].is_regression
        assert _figures(kind)["mean"].is_regression
        assert not _figures(kind)["rate"].is_regression
        assert not _compared(_run(seed), slower, threshold=0.3).is_regression


def test_a_faster_server_is_changed_and_no_regression() -> None:
    comparison = _compared(_run(0), _run(100, factor=0.7))
    mean = _figures(comparison.kinds[0])["mean"]
    assert mean.is_changed
    assert not mean.is_worse
    assert not comparison.is_regression


def test_the_difference_is_relative_and_in_its_interval() -> None:
    a, b = _run(0), _run(101, factor=1.2)
    mean = _figures(_compared(a, b).kinds[0])["mean"]
    assert (mean.unit, mean.a, mean.b) == ("ms", a.together.latency.mean_ms, b.together.latency.mean_ms)
    assert mean.difference == pytest.approx(mean.b / mean.a - 1)
    low, high = mean.low or 0.0, mean.high or 0.0
    assert low < mean.b / mean.a - 1 < high
    assert low < 0.2 < high


def test_the_same_result_twice_has_not_changed() -> None:
    comparison = _compared(_run(0), _run(0), threshold=0.0)
    assert not any(figure.is_changed or figure.difference for figure in comparison.kinds[0].figures)
    assert comparison.notes == ()


def test_a_comparison_is_the_same_every_time() -> None:
    a, b = _run(0), _run(1)
    assert _compared(a, b) == _compared(a, b)


def test_more_errors_are_a_regression_of_the_share() -> None:
    comparison = _compared(_run(0), _run(1, failed=20))
    errors = _figures(comparison.kinds[0])["errors"]
    assert (errors.unit, errors.a) == ("%", 0.0)
    assert errors.b == pytest.approx(2.0)
    assert errors.difference == pytest.approx(0.02)
    assert errors.is_regression
    assert comparison.is_regression


def test_errors_of_one_moment_are_not_told_from_noise() -> None:
    stalled = measurement({"clips": _times(1)}, of=ONE, failed={"clips": range(500, 520)})
    errors = _figures(_compared(_run(0), stalled).kinds[0])["errors"]
    assert errors.difference == pytest.approx(0.02)
    assert not errors.is_changed


def test_errors_must_grow_by_a_tenth_of_a_point_and_by_the_threshold() -> None:
    many = 5000  # 4 more errors: 0.08 points
    few = measurement({"clips": [50.0] * many}, of=ONE, failed={"clips": range(0, many, many // 4)})
    errors = _figures(_compared(measurement({"clips": [50.0] * many}, of=ONE), few).kinds[0])["errors"]
    assert errors.is_changed
    assert not errors.is_regression
    shed, more = (measurement({"clips": [50.0] * 1000}, of=ONE, failed={"clips": range(0, n, 2)}) for n in (900, 960))
    shares = _figures(_compared(shed, more, threshold=0.1).kinds[0])["errors"]
    assert shares.difference == pytest.approx(0.03)
    assert not shares.is_regression


def test_fewer_answers_are_a_regression_of_the_rate() -> None:
    rate = _figures(_compared(_run(0), _run(1, number=800)).kinds[0])["rate"]
    assert (rate.unit, rate.a, rate.b) == ("/s", 1000 / DURATION_S, 800 / DURATION_S)
    assert rate.difference == pytest.approx(-0.2)
    assert rate.is_regression
    assert not _figures(_compared(_run(1, number=800), _run(0)).kinds[0])["rate"].is_worse


def test_kinds_are_compared_each_by_itself() -> None:
    quick, slow = _times(0), _times(1, factor=10)
    a = measurement({"clips": quick, "tapes": slow}, of=TWO)
    b = measurement({"clips": quick, "tapes": [2 * time for time in slow]}, of=TWO)
    comparison = compare_results(result(a, of=TWO), result(b, of=TWO), threshold=0.1)
    assert [kind.name for kind in comparison.kinds] == ["all", "clips", "tapes"]
    _, clips, tapes = map(_figures, comparison.kinds)
    assert not any(figure.is_changed for figure in clips.values())
    assert tapes["p50"].difference == pytest.approx(1.0, rel=0.01)
    assert tapes["p50"].is_regression


def test_a_kind_that_is_not_answered_any_more_is_a_regression_of_its_rate() -> None:
    times = _times(0)
    a = measurement({"clips": times, "tapes": times}, of=TWO)
    b = measurement({"clips": times, "tapes": times}, of=TWO, failed={"tapes": range(1000)})
    comparison = compare_results(result(a, of=TWO), result(b, of=TWO), threshold=0.1)
    tapes = _figures(comparison.kinds[2])
    assert list(tapes) == ["errors", "rate"]
    assert tapes["rate"].difference == -1
    assert tapes["rate"].is_regression
    assert tapes["errors"].is_regression
    back = _figures(compare_results(result(b, of=TWO), result(a, of=TWO), threshold=0.1).kinds[2])["rate"]
    assert (back.a, back.difference, back.is_changed) == (0.0, None, False)


def test_another_address_name_and_description_do_not_matter() -> None:
    other = replace(ONE, url="10.0.0.7:8001", metrics_url="http://10.0.0.7:8002/metrics", name="again", description="x")
    comparison = compare_results(result(_run(0), of=ONE), result(_run(1), of=other), threshold=0.1)
    assert comparison.b.url == "10.0.0.7:8001"
    assert any("10.0.0.7:8001" in note for note in comparison.notes)


@pytest.mark.parametrize(
    ("change", "named"), [({"seed": 7}, "seed"), ({"duration_s": 9.0, "seed": 1}, "duration_s, seed")]
)
def test_other_scenarios_are_refused(change: dict[str, Any], named: str) -> None:
    other = replace(ONE, **change)
    with pytest.raises(InvalidRequestError, match=f"differ in {named}$") as caught:
        compare_results(result(_run(0), of=ONE), result(_run(1), of=other), threshold=0.1)
    assert caught.value.code == "bad_input"


def test_a_result_without_an_answer_is_refused() -> None:
    nothing = measurement({"clips": [10.0] * 5}, of=ONE, failed={"clips": range(5)})
    for a, b, which in ((_run(0), nothing, "B"), (nothing, _run(0), "A")):
        with pytest.raises(InvalidRequestError, match=f"{which} has no answer"):
            _compared(a, b)


def _with_machine(one: Result) -> Result:
    machine = replace(one.machine, cores=64, versions={"numpy": "2", "av": "18"})
    return replace(one, machine=machine, tubelet_version="1.1", contracts={"demo": "sha256:2"})


def test_what_else_differs_is_noted() -> None:
    a = result(replace(_run(0), server=server({"demo": 0.0})), of=ONE)
    newer = replace(server({"demo": 0.0}), version="2.60")
    b = _with_machine(result(replace(_run(1), server=newer), of=ONE))
    notes = compare_results(a, b, threshold=0.1).notes
    for expected in (
        "The contract of demo is sha256:1 in A, sha256:2 in B: it is not the same model.",
        "A is of tubelet 1.0, B of 1.1.",
        "Triton is 2.51 in A, 2.60 in B.",
        "A ran on A processor with 2 cores and 8 GiB, Linux 6, Python 3.11; "
        "B on A processor with 64 cores and 8 GiB, Linux 6, Python 3.11.",
        "numpy is 1 in A, 2 in B.",
        "av is not there in A, 18 in B.",
    ):
        assert expected in notes
    assert len(notes) == 6


def test_what_makes_figures_doubtful_is_noted() -> None:
    late = replace(_run(1).generator, is_on_time=False)
    doubtful = replace(_run(1), generator=late, stopped_by="interrupted", duration_s=12.0)
    notes = _compared(_run(0), doubtful).notes
    assert notes == (
        "B was interrupted after 12 s.",
        "In B the requests were sent late: its latencies hold the generator's own slowness.",
    )


def test_steps_are_put_side_by_side() -> None:
    a = replace(_run(0), server=server({"demo": 1.0, "demo_encoder": 2.0, "demo_units": 1.0}))
    b = replace(_run(0), server=server({"demo": 1.5, "demo_encoder": 9.0, "demo_average": 0.5}))
    steps = _compared(a, b).steps
    assert [(step.name, step.is_public, step.queue_a_ms, step.queue_b_ms) for step in steps] == [
        ("demo", True, 1.0, 1.5),
        ("demo_encoder", False, 2.0, 9.0),
        ("demo_units", False, 1.0, None),
        ("demo_average", False, None, 0.5),
    ]
    assert (steps[2].compute_a_ms, steps[2].compute_b_ms) == (5.0, None)
    assert _compared(_run(0), _run(0)).steps == ()


def _searched(highest: float | None, found: Measurement, **changes: Any) -> Result:
    search = SearchFigures(
        highest_rate=highest,
        broken_rate=(highest or 1.0) * 1.05,
        limited_by="promise",
        trials=(),
        curve=(),
        knee_rate=None,
    )
    return result(found, of=SEARCHING, search=replace(search, **changes))


@pytest.mark.parametrize(
    ("a", "b", "is_changed", "is_regression"),
    [
        (40.0, 40.0, False, False),
        (40.0, 38.5, False, False),  # less than the search's precision
        (40.0, 37.0, True, False),
        (40.0, 34.0, True, True),
        (40.0, 60.0, True, False),
        (40.0, None, True, True),
    ],
)
def test_the_highest_rate_is_compared_by_the_searches_precision(
    a: float, b: float | None, is_changed: bool, is_regression: bool
) -> None:
    comparison = compare_results(_searched(a, _run(0)), _searched(b, _run(0)), threshold=0.1)
    figure = comparison.highest_rate
    assert figure is not None
    assert (figure.a, figure.b) == (a, b or 0.0)
    assert (figure.is_changed, figure.is_regression) == (is_changed, is_regression)
    assert comparison.is_regression == is_regression
    assert comparison.is_same_load == (a == b)


def test_a_rate_where_there_was_none_is_no_regression() -> None:
    figure = compare_results(_searched(None, _run(0)), _searched(9.0, _run(0)), threshold=0.1).highest_rate
    assert figure is not None
    assert (figure.a, figure.b, figure.difference, figure.is_regression) == (0.0, 9.0, None, False)
    assert compare_results(_searched(None, _run(0)), _searched(None, _run(0)), threshold=0.1).highest_rate is None


def test_latencies_at_other_rates_are_not_judged() -> None:
    slower = _run(100, factor=1.5)
    comparison = compare_results(_searched(40.0, _run(0)), _searched(60.0, slower), threshold=0.1)
    assert not comparison.is_regression
    assert any("loads differ" in note for note in comparison.notes)
    assert compare_results(_searched(40.0, _run(0)), _searched(40.0, slower), threshold=0.1).is_regression
    plain = result(slower, of=SEARCHING)
    assert not compare_results(_searched(40.0, _run(0)), plain, threshold=0.1).is_regression


@pytest.mark.parametrize("limited_by", ["generator", "interrupted"])
def test_a_highest_rate_that_is_a_lower_bound_is_noted(limited_by: str) -> None:
    bounded = _searched(40.0, _run(0), limited_by=limited_by)
    assert any("lower bound" in note for note in compare_results(bounded, bounded, threshold=0.1).notes)


def test_its_json_is_plain_and_says_whether_it_is_a_regression() -> None:
    comparison = _compared(_run(0), _run(100, factor=1.2))
    data = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert data["is_regression"] is True
    assert data["schema_version"] == 1
    assert [figure["name"] for figure in data["kinds"][0]["figures"]] == ["p50", "p90", "p99", "mean", "errors", "rate"]


def _direct(times_ms: Sequence[float], wanted: np.ndarray) -> list[float]:
    """Percentiles of times, each as often as is wanted, by sorting."""
    ordered = np.sort(np.repeat(np.array(times_ms), wanted))
    return [float(ordered[max(1, int(share * len(ordered) + 0.5)) - 1]) for share in (0.5, 0.9, 0.99)]


def test_a_resample_is_what_its_blocks_hold() -> None:
    times = _times(3)
    found = measurement({"clips": times}, of=ONE, failed={"clips": range(0, 1000, 9)})
    drawn = draw_blocks(20, seed=5)[:25]
    np.testing.assert_array_equal(drawn.sum(axis=1), 20)
    samples = resample(found.together.blocks, drawn, duration_s=DURATION_S)
    is_right = np.arange(1000) % 9 != 0
    for row, weights in enumerate(drawn):
        wanted = np.repeat(weights, 50)
        expected = _direct(times, wanted * is_right)
        np.testing.assert_allclose([samples[name][row] for name in ("p50", "p90", "p99")], expected, rtol=2e-3)
        answered = (wanted * is_right).sum()
        assert samples["rate"][row] == pytest.approx(answered / DURATION_S)
        assert samples["errors"][row] == pytest.approx(1 - answered / 1000)
        assert samples["mean"][row] == pytest.approx((wanted * is_right) @ times / answered, rel=2e-3)


def test_nothing_answered_is_no_figure_but_a_rate() -> None:
    failed = measurement({"clips": [100.0] * 40}, of=ONE, failed={"clips": range(40)}).together.blocks
    samples = resample(failed, draw_blocks(20, seed=0), duration_s=DURATION_S)
    assert all(np.isnan(samples[name]).all() for name in ("p50", "p90", "p99", "mean"))
    np.testing.assert_array_equal(samples["errors"], 1.0)
    np.testing.assert_array_equal(samples["rate"], 0.0)


def test_what_a_resample_cannot_tell_is_left_out_of_the_interval() -> None:
    sparse = measurement({"clips": [100.0]}, of=ONE).together.blocks
    samples = resample(sparse, draw_blocks(20, seed=0), duration_s=DURATION_S)
    for name in ("p50", "p99", "mean", "errors"):
        assert np.isnan(samples[name]).any()
        assert not np.isnan(samples[name]).all()
    assert interval(samples["p50"]) == pytest.approx((100, 100), rel=2e-3)
    assert interval(np.full(4, np.nan)) is None
