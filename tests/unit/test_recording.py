"""What a load's notes become: histograms, figures by kind, blocks and series."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from tubelet.loadtest.histograms import MOST_US, from_text, histogram_of, new_histogram, summary, to_text
from tubelet.loadtest.recording import Recorder
from tubelet.loadtest.scenario import RequestKind, Steady, Stream
from tubelet.loadtest.sending import Reply
from tubelet.loadtest.summing import (
    MOST_BINS,
    NUM_BLOCKS,
    errors_of,
    figures_of,
    figures_together,
    lag_of,
    rates_of,
    series_of,
)
from tubelet.spec.errors import InvalidRequestError

REPLY = Reply(protocol="1x1", views=2, units=3, server_ms=4.0, num_bytes=100)
STREAM = Stream(name="s", arrivals=Steady(kind="steady", rate=1.0), requests=())
KINDS = [(STREAM, RequestKind(name=name, model="motion", videos="v")) for name in ("a", "b")]


def times_of(histogram: HdrHistogram) -> list[tuple[int, int]]:
    return [(item.value_iterated_to, item.count_at_value_iterated_to) for item in histogram.get_recorded_iterator()]


def random_load(recorder: Recorder, *, number: int = 500, duration_s: float = 30.0) -> None:
    """Of two kinds, some in the warm-up, some failed, some cut off at the end."""
    rng = np.random.default_rng(7)
    for due_s in rng.uniform(-5, duration_s, number):
        kind, took_s = int(rng.integers(2)), float(rng.lognormal(-1, 1))
        at = {"due_s": float(due_s), "ended_s": float(due_s) + took_s}
        match int(rng.integers(10)):
            case 0:
                recorder.failed(kind, "overloaded" if kind else "not_a_video", **at, lag_s=0.001)
            case 1 if due_s + took_s > duration_s:
                recorder.cut_off(kind, due_s=at["due_s"], ended_s=duration_s)
            case _:
                recorder.answered(kind, REPLY, **at, lag_s=0.001)


def test_many_times_at_once_make_the_same_histogram_as_one_by_one() -> None:
    times = np.concatenate([np.random.default_rng(0).lognormal(9, 3, 3000), np.arange(1, 5000)]).round()
    one_by_one = new_histogram()
    for time_us in times:
        one_by_one.record_value(int(min(max(1, time_us), MOST_US)))
    assert to_text(histogram_of(times)) == to_text(one_by_one)
    assert summary(histogram_of(times)).mean_ms == pytest.approx(one_by_one.get_mean_value() / 1000, rel=1e-12)


def test_a_histogram_keeps_three_digits_and_clamps_the_rest() -> None:
    found = summary(histogram_of(np.array([-5.0, 0.0, 123_456.0, 1e12, math.inf])))
    assert found.count == 5
    assert found.p50_ms == pytest.approx(123.456, rel=1e-3)
    assert found.max_ms == pytest.approx(MOST_US / 1000, rel=1e-3)


def test_a_histogram_without_times_is_all_zeros() -> None:
    found = summary(new_histogram())
    assert {value for name, value in vars_of(found).items() if name != "histogram"} == {0}
    assert summary(from_text(found.histogram)) == found


def vars_of(latency: object) -> dict[str, object]:
    return {name: getattr(latency, name) for name in latency.__slots__}  # type: ignore[attr-defined]


def test_texts_can_be_read_and_added_up() -> None:
    one, other = (histogram_of(np.random.default_rng(seed).lognormal(9, 1, 200)) for seed in (1, 2))
    again = from_text(to_text(one))
    assert times_of(again) == times_of(one)
    assert summary(again) == summary(one)
    again.add(other)
    assert again.total_count == 400


@pytest.mark.parametrize("text", ["", "x", "AAAA", "HISTFAAAACV4nJNpmSzM", "é", to_text(HdrHistogram(1, 1000, 2))])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        from_text(text)
    assert caught.value.code == "bad_input"


def test_kinds_blocks_and_series_add_up() -> None:
    recorder = Recorder(2)
    random_load(recorder)
    records = recorder.records()
    both, together = figures_of(records, KINDS, duration_s=30), figures_together(records, KINDS, duration_s=30)
    for figures in (*both, together):
        assert figures.requests == figures.answered + sum(figures.errors.values()) + figures.cut_off
        assert len(figures.blocks) == NUM_BLOCKS
        assert sum(block.requests for block in figures.blocks) == figures.requests
        assert sum(block.errors for block in figures.blocks) == sum(figures.errors.values())
        merged = new_histogram()
        for block in figures.blocks:
            merged.add(from_text(block.histogram))
        assert times_of(merged) == times_of(from_text(figures.latency.histogram))
        assert (figures.views, figures.units) == (2 * figures.answered, 3 * figures.answered)
    merged = from_text(both[0].latency.histogram)
    merged.add(from_text(both[1].latency.histogram))
    assert summary(merged) == together.latency
    assert together.requests == sum(figures.requests for figures in both) == int((records.due_s >= 0).sum())
    assert together.cut_off > 0
    assert set(both[0].errors) == {"not_a_video"}
    assert recorder.num_answered == together.answered
    assert recorder.num_failed == sum(together.errors.values())
    assert recorder.latency.get_value_at_percentile(50) / 1000 == pytest.approx(together.latency.p50_ms, rel=0.02)


def test_the_series_knows_how_many_are_in_flight() -> None:
    recorder = Recorder(2)
    random_load(recorder)
    records = recorder.records()
    series = series_of(records, duration_s=30)
    assert series.bin_s == 1
    assert len(series.due) == 30
    assert sum(series.due) == int((records.due_s >= 0).sum())
    for second, in_flight in enumerate(series.in_flight, 1):
        is_open = (records.due_s < second) & ((records.ended_s > second) | (records.outcome < 0))
        assert in_flight == int(is_open.sum())
    rate, views_rate, units_rate = rates_of(records, duration_s=30)
    assert rate == pytest.approx(sum(series.answered) / 30)
    assert (views_rate, units_rate) == pytest.approx((2 * rate, 3 * rate))


def test_each_bin_has_the_latencies_of_what_was_due_in_it() -> None:
    recorder = Recorder(1)
    for tenth in range(20):
        took_s = 1.0 if tenth == 3 else 0.01 * (tenth + 1)
        recorder.answered(0, REPLY, due_s=tenth / 10, ended_s=tenth / 10 + took_s)
    recorder.failed(0, "overloaded", due_s=0.5, ended_s=9.0)
    series = series_of(recorder.records(), duration_s=3)
    assert series.p50_ms == pytest.approx((60, 150, 0))
    assert series.p99_ms == pytest.approx((1000, 200, 0))
    assert series.max_ms == pytest.approx((1000, 200, 0))
    assert series.due == (11, 10, 0)
    assert series.failed == (0, 0, 0)
    assert series.in_flight[-1] == 1


@pytest.mark.parametrize(
    ("duration_s", "bin_s", "num_bins"), [(0.0, 1, 1), (0.4, 1, 1), (600.0, 1, 600), (7201.0, 13, 554)]
)
def test_a_long_time_has_wider_bins(duration_s: float, bin_s: float, num_bins: int) -> None:
    recorder = Recorder(1)
    recorder.answered(0, REPLY, due_s=duration_s, ended_s=duration_s)
    series = series_of(recorder.records(), duration_s=duration_s)
    assert (series.bin_s, len(series.due)) == (bin_s, num_bins)
    assert series.due[-1] == series.answered[-1] == 1
    assert num_bins <= MOST_BINS


def test_blocks_are_equal_shares_of_the_time() -> None:
    recorder = Recorder(1)
    for number in range(200):
        recorder.answered(0, REPLY, due_s=number / 100, ended_s=number / 100 + 0.1)
    (figures,) = figures_of(recorder.records(), KINDS[:1], duration_s=2.0)
    assert {block.requests for block in figures.blocks} <= {9, 10, 11}


def test_nothing_at_all_is_no_error() -> None:
    records = Recorder(2).records()
    together = figures_together(records, KINDS, duration_s=0.0)
    assert (together.requests, together.errors, together.latency.count) == (0, {}, 0)
    assert rates_of(records, duration_s=0.0) == (0, 0, 0)
    assert lag_of(records).count == 0
    assert series_of(records, duration_s=0.0).due == (0,)


def test_the_most_frequent_error_stands_first() -> None:
    recorder = Recorder(1)
    for code, count in (("late", 2), ("overloaded", 5), ("early", 2)):
        for _ in range(count):
            recorder.failed(0, code, due_s=1.0, ended_s=1.0)
    assert list(errors_of(recorder.records()).items()) == [("overloaded", 5), ("early", 2), ("late", 2)]


def test_what_differs_between_kinds_has_no_name_for_all() -> None:
    recorder = Recorder(2)
    recorder.answered(0, REPLY, due_s=1.0, ended_s=1.0)
    for protocol in ("4x3", "tsn", "full"):
        recorder.answered(1, REPLY._replace(protocol=protocol), due_s=1.0, ended_s=1.0)
    kinds = [KINDS[0], (replace(STREAM, name="t", priority="archive"), replace(KINDS[1][1], model="other"))]
    first, second = figures_of(recorder.records(), kinds, duration_s=2)
    together = figures_together(recorder.records(), kinds, duration_s=2)
    assert (first.stream, first.model, first.protocol, first.priority) == ("s", "motion", "1x1", "interactive")
    assert (second.stream, second.model, second.protocol, second.priority) == ("t", "other", "", "archive")
    assert (together.stream, together.model, together.protocol, together.priority) == ("", "", "", "interactive")


@pytest.mark.parametrize("server_ms", [math.nan, math.inf, -math.inf, 1e300, -5.0])
def test_impossible_times_of_a_server_spoil_nothing(server_ms: float) -> None:
    recorder = Recorder(1)
    recorder.answered(0, REPLY._replace(server_ms=server_ms), due_s=0.5, ended_s=1e9)
    (figures,) = figures_of(recorder.records(), KINDS[:1], duration_s=1)
    assert figures.server.count == 1
    assert 0 < figures.server.max_ms <= figures.latency.max_ms


def test_lag_is_of_what_open_loops_sent() -> None:
    recorder = Recorder(1)
    recorder.answered(0, REPLY, due_s=-1.0, ended_s=2.0, lag_s=9.0)
    recorder.answered(0, REPLY, due_s=1.0, ended_s=2.0)
    recorder.answered(0, REPLY, due_s=1.0, ended_s=2.0, lag_s=0.25)
    recorder.failed(0, "overloaded", due_s=1.0, ended_s=2.0, lag_s=0.5)
    found = lag_of(recorder.records())
    assert found.count == 2
    assert found.max_ms == pytest.approx(500, rel=0.001)
