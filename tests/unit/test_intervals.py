"""Bootstrap intervals: they hold the figure, they are repeatable, they keep the parts of a file together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from tubelet.evaluation.intervals import RESAMPLES, clusters_of, estimate, estimate_unbiased, paired_weights


def test_rows_of_a_file_are_one_cluster() -> None:
    np.testing.assert_array_equal(clusters_of(["b", "a", "b", "c"]), [0, 1, 0, 2])


def test_each_resample_has_as_many_files_as_the_list() -> None:
    clusters = np.array([0, 1, 1, 2, 2, 2])
    weights = np.concatenate(list(paired_weights(clusters)))
    assert weights.shape == (RESAMPLES, 6)
    np.testing.assert_array_equal(weights[:, 1], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 3], weights[:, 5])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), np.full(RESAMPLES, 3))


def test_draws_are_the_same_every_time_and_do_not_depend_on_the_batches() -> None:
    clusters = np.arange(3000)
    batches = list(paired_weights(clusters, resamples=1500))
    assert len(batches) > 1
    again = np.concatenate(list(paired_weights(clusters, resamples=1500)))
    np.testing.assert_array_equal(np.concatenate(batches), again)
    other = np.concatenate(list(paired_weights(clusters, resamples=1500, seed=1)))
    assert (other != again).any()


def test_an_interval_is_that_of_scipy() -> None:
    random = np.random.default_rng(4)
    hits = (random.random(400) < 0.7).astype(np.float64)
    weights = np.concatenate(list(paired_weights(np.arange(400))))
    found = estimate(float(hits.mean()), weights @ hits / weights.sum(axis=1))
    theirs = bootstrap((hits,), np.mean, n_resamples=2000, method="percentile", random_state=0, batch=100)
    np.testing.assert_allclose((found.low, found.high), theirs.confidence_interval, atol=0.01)


def test_independent_rows_that_are_none_make_intervals_wider() -> None:
    random = np.random.default_rng(5)
    hits = np.repeat(random.random(40) < 0.6, 10).astype(np.float64)

    def width(clusters: np.ndarray) -> float:
        weights = np.concatenate(list(paired_weights(clusters)))
        found = estimate(float(hits.mean()), weights @ hits / weights.sum(axis=1))
        return found.high - found.low

    assert width(np.repeat(np.arange(40), 10)) > 2 * width(np.arange(400))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(6)
    weights = np.concatenate(list(paired_weights(np.arange(200)))) / 200

    def coverage(share: float) -> float:
        lists = (random.random((1000, 200)) < share).astype(np.float64)
        samples = weights @ lists.T
        found = [estimate(float(one.mean()), samples[:, i], number=200) for i, one in enumerate(lists)]
        return float(np.mean([it.low - 1e-9 <= share <= it.high + 1e-9 for it in found]))

    assert 0.93 <= coverage(0.9) <= 0.98
    assert coverage(0.995) > 0.93  # a third of these lists are right altogether, and their draws all alike


def test_figures_that_resamples_inflate_are_moved_back() -> None:
    found = estimate_unbiased(0.5, np.linspace(0.6, 0.8, 2001))
    assert (found.low, found.value, found.high) == pytest.approx((0.405, 0.5, 0.595))
    assert estimate_unbiased(0.05, np.linspace(0.6, 0.8, 2001)).low == 0
    assert estimate_unbiased(-0.1, np.linspace(-0.2, 0, 2001), lowest=-1.0).low == pytest.approx(-0.195)


@given(st.floats(-1, 1), st.lists(st.one_of(st.floats(-1, 1), st.just(float("nan"))), max_size=20))
def test_an_interval_holds_its_figure(value: float, samples: list[float]) -> None:
    found = estimate(value, np.array(samples))
    assert found.low <= found.value == value <= found.high
