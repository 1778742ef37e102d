"""The knee of a curve of latency over load: where it is, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from tubelet.loadtest.knee import find_knee

CAPACITY = 100.0


def _queueing(rates: np.ndarray, *, trial_s: float = 20.0) -> np.ndarray:
    """Latency as of one server that takes 10 ms; beyond its capacity what waits by the middle of the trial."""
    waiting = 10 / np.maximum(1 - rates / CAPACITY, 1e-3)
    return np.where(rates < CAPACITY, waiting, 500 * trial_s * (rates / CAPACITY - 1) + 500)


def test_the_knee_of_two_lines_is_where_they_meet() -> None:
    rates = np.arange(1.0, 13.0)
    latencies = 10 * np.where(rates <= 8, 1.0, 2.0 ** (rates - 8))
    assert find_knee(rates.tolist(), latencies.tolist()) == 8.0


def test_the_knee_of_a_queue_lies_before_its_capacity() -> None:
    rates = np.linspace(5, 115, 23)
    knee = find_knee(rates.tolist(), _queueing(rates).tolist())
    assert knee is not None
    assert 0.7 * CAPACITY <= knee < CAPACITY


def test_longer_trials_and_other_units_do_not_move_it_far() -> None:
    rates = np.linspace(5, 115, 23)
    knees = [find_knee(rates.tolist(), _queueing(rates, trial_s=trial_s).tolist()) for trial_s in (10, 60, 600)]
    assert all(knee is not None and 0.7 * CAPACITY <= knee < CAPACITY for knee in knees)
    seconds = find_knee((60 * rates).tolist(), (_queueing(rates, trial_s=10) / 1000).tolist())
    assert seconds == pytest.approx(60 * (knees[0] or 0))


def test_noise_does_not_move_it_far() -> None:
    rates = np.linspace(5, 115, 23)
    for seed in range(20):
        noisy = _queueing(rates) * np.random.default_rng(seed).lognormal(0, 0.15, len(rates))
        knee = find_knee(rates.tolist(), noisy.tolist())
        assert knee is not None
        assert 0.6 * CAPACITY <= knee <= 1.05 * CAPACITY


def test_a_flat_line_has_none() -> None:
    rates = np.linspace(5, 115, 23)
    assert find_knee(rates.tolist(), [10.0] * 23) is None
    for seed in range(20):
        noisy = 10 * np.random.default_rng(seed).lognormal(0, 0.1, len(rates))
        assert find_knee(rates.tolist(), noisy.tolist()) is None


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_a_curve_that_does_not_bend_upwards_has_none(power: float) -> None:
    rates = np.linspace(1, 20, 12)
    assert find_knee(rates.tolist(), (10 * rates**power).tolist()) is None


def test_steady_growth_by_a_factor_has_none() -> None:
    assert find_knee([1.0, 2.0, 3.0, 4.0, 5.0], [10.0, 20.0, 40.0, 80.0, 160.0]) is None


def test_points_without_an_answer_do_not_count() -> None:
    rates = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert find_knee(rates, [10.0, 10.0, 10.0, 10.0, 10.0, 200.0, 0.0]) == 5.0
    assert find_knee(rates, [10.0, 10.0, 200.0, 0.0, 0.0, 0.0, 0.0]) is None


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_few_points_have_none(number: int) -> None:
    assert find_knee([1.0, 2.0, 3.0][:number], [10.0, 10.0, 900.0][:number]) is None
