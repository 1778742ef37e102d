"""The search for the highest rate, on a server that is computed: what it finds, and how often it asks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measured_loads import measurement, scenario

from tubelet.loadtest.measured import Measurement, SearchFigures, Trial
from tubelet.loadtest.scenario import Search, load_scenario
from tubelet.loadtest.search import find_highest_rate, most_trials
from tubelet.spec.errors import ScenarioError

PROMISE = "p99 <= 500 ms"
CAPACITY = 100.0
ANSWER = 82.0
"""Where `_Server` reaches 500 ms."""

_SCENARIO = """
name = "search"
url = "127.0.0.1:8001"
duration_s = 5
[videos.made]
kind = "synthetic"
[[streams]]
name = "one"
arrivals = { kind = "steady", rate = 1 }
requests = [{ name = "clips", model = "demo", videos = "made" }]
[search]
"""


@dataclass
class _Server:
    """Latency as of a queue, times noise of its own in each trial; from its capacity on nearly all wait long."""

    noise: float = 0.0
    interrupted_at: int | None = None
    """The trial at which the person has enough; from 0."""
    late_from: float = np.inf
    """From here on the generator is late."""
    dead_from: float = np.inf
    seed: int = 0
    asked: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._measured = _measured()

    def p99_ms(self, rate: float) -> float:
        return 90 / (1 - rate / CAPACITY) if rate < 0.99 * CAPACITY else 10_000.0

    async def try_rate(self, rate: float) -> Measurement:
        self.asked.append(rate)
        p99 = self.p99_ms(rate) * self._random.lognormal(0, self.noise)
        plain, together = self._measured, self._measured.together
        latency = replace(together.latency, p99_ms=p99, p50_ms=p99 / 3)
        is_dead = rate >= self.dead_from
        return replace(
            plain,
            rate=min(rate, CAPACITY),
            together=replace(together, latency=latency, answered=0 if is_dead else 20),
            promised=tuple(replace(it, found=p99, kept=p99 <= 500) for it in plain.promised),
            generator=replace(plain.generator, is_on_time=rate < self.late_from),
            stopped_by="interrupted" if self.interrupted_at == len(self.asked) - 1 else "duration",
        )


@cache
def _measured() -> Measurement:
    return measurement({"clips": [100.0] * 20}, of=scenario(promise=PROMISE))


def _search(**changes: Any) -> Search:
    return replace(Search(least_rate=5.0, most_rate=400.0, confirmations=3, precision=0.05), **changes)


def _find(server: _Server, search: Search, heard: list[Trial] | None = None) -> SearchFigures:
    on_trial = None if heard is None else heard.append
    return asyncio.run(find_highest_rate(search, try_rate=server.try_rate, on_trial=on_trial))


def test_it_finds_the_rate_within_its_precision() -> None:
    found = _find(server := _Server(), _search())
    assert found.highest_rate is not None
    assert found.broken_rate is not None
    assert found.highest_rate <= ANSWER < found.broken_rate
    assert found.broken_rate / found.highest_rate - 1 <= 0.05
    assert found.limited_by == "promise"
    assert len(server.asked) <= most_trials(_search())


@pytest.mark.parametrize("precision", [0.01, 0.2])
def test_it_looks_as_closely_as_it_is_told(precision: float) -> None:
    found = _find(server := _Server(), _search(precision=precision, curve_points=0))
    assert found.broken_rate is not None
    assert found.highest_rate is not None
    assert found.broken_rate / found.highest_rate - 1 <= precision
    assert found.highest_rate <= ANSWER < found.broken_rate
    assert len(server.asked) <= most_trials(_search(precision=precision, curve_points=0))


def test_a_noisy_server_is_decided_by_the_majority() -> None:
    answers = []
    for seed in range(20):
        found = _find(server := _Server(noise=0.1, seed=seed), _search())
        assert found.highest_rate is not None
        assert len(server.asked) <= most_trials(_search())
        answers.append(found.highest_rate)
    # Noise of a tenth moves the latency at which a rate breaks by as much; the rate, near the capacity, by less.
    assert all(0.9 * ANSWER <= answer <= 1.1 * ANSWER for answer in answers)
    assert np.median(answers) == pytest.approx(ANSWER, rel=0.05)


def test_each_rate_is_tried_until_more_than_half_agree() -> None:
    found = _find(_Server(), _search(curve_points=0))
    assert all(sum(trial.rate == rate for trial in found.trials) == 2 for rate in {it.rate for it in found.trials})
    once = _find(_Server(), _search(curve_points=0, confirmations=1))
    assert len({trial.rate for trial in once.trials}) == len(once.trials)


def test_one_bad_trial_of_three_does_not_break_a_rate() -> None:
    class _Hiccup(_Server):
        def p99_ms(self, rate: float) -> float:
            return 10_000.0 if len(self.asked) == 1 else super().p99_ms(rate)

    found = _find(_Hiccup(), _search(curve_points=0))
    assert [trial.kept for trial in found.trials[:3]] == [False, True, True]
    assert found.highest_rate is not None
    assert found.highest_rate >= 0.95 * ANSWER
    with_two = _find(_Hiccup(), _search(curve_points=0, confirmations=2))
    assert with_two.highest_rate is None


def test_rates_below_a_kept_one_are_not_tried_again() -> None:
    for seed in range(10):
        asked = [trial.rate for trial in _find(_Server(noise=0.2, seed=seed), _search(curve_points=0)).trials]
        decided = list(dict.fromkeys(asked))
        assert asked == sorted(asked, key=decided.index), "a rate was tried again after another"
        kept = 0.0
        for rate, following in zip(decided, [*decided[1:], float("inf")], strict=True):
            assert rate > kept
            kept = rate if following > rate else kept


def test_where_the_least_rate_breaks_the_promise_there_is_no_answer() -> None:
    found = _find(server := _Server(), _search(least_rate=90.0))
    assert (found.highest_rate, found.broken_rate, found.limited_by) == (None, 90.0, "promise")
    assert server.asked == [90.0, 90.0]
    assert found.knee_rate is None


def test_where_the_highest_rate_keeps_it_the_range_was_too_small() -> None:
    found = _find(server := _Server(), _search(most_rate=60.0))
    assert (found.highest_rate, found.broken_rate, found.limited_by) == (60.0, None, "range")
    assert max(server.asked) == 60.0


def test_a_range_of_one_rate_is_one_decision() -> None:
    found = _find(server := _Server(), one := _search(least_rate=50.0, most_rate=50.0))
    assert (found.highest_rate, found.limited_by) == (50.0, "range")
    assert server.asked == [50.0, 50.0]
    assert len(server.asked) <= most_trials(one)


def test_a_late_generator_breaks_a_trial_and_makes_the_answer_a_lower_bound() -> None:
    found = _find(_Server(late_from=30.0), _search())
    assert found.highest_rate is not None
    assert found.highest_rate < 30.0 <= (found.broken_rate or 0)
    assert found.limited_by == "generator"
    assert all(trial.kept == (trial.rate < 30.0) for trial in found.trials)


def test_a_generator_that_is_late_where_the_promise_was_broken_before_does_not_matter() -> None:
    assert _find(_Server(late_from=110.0), _search()).limited_by == "promise"


def test_a_rate_at_which_nothing_is_answered_keeps_nothing() -> None:
    found = _find(_Server(dead_from=20.0), _search(curve_points=0))
    assert found.highest_rate is not None
    assert found.highest_rate < 20.0 <= (found.broken_rate or 0)
    assert found.limited_by == "promise"


@pytest.mark.parametrize("at", [0, 1, 2, 5, 9, 12])
def test_an_interruption_ends_it_with_what_it_has(at: int) -> None:
    whole = _find(_Server(), _search(curve_points=0))
    assert at < len(whole.trials)
    found = _find(server := _Server(interrupted_at=at), _search(curve_points=0))
    assert len(server.asked) == at + 1
    assert found.trials == whole.trials[:at]
    assert found.limited_by == "interrupted"
    decided = {rate for rate in server.asked[:at] if server.asked[:at].count(rate) == 2}
    assert found.highest_rate == max((rate for rate in decided if rate <= ANSWER), default=None)
    assert found.broken_rate == min((rate for rate in decided if rate > ANSWER), default=None)


def test_an_interruption_of_the_curve_leaves_the_answer() -> None:
    whole = _find(_Server(), _search(curve_points=0))
    found = _find(_Server(interrupted_at=len(whole.trials) + 1), _search(curve_points=6))
    assert len(found.trials) == len(whole.trials) + 1
    assert (found.highest_rate, found.limited_by) == (whole.highest_rate, "promise")


def test_the_curve_reaches_beyond_the_answer_and_shows_the_knee() -> None:
    before = _find(_Server(), _search(curve_points=0))
    found = _find(_Server(), _search(curve_points=6))
    further = found.trials[len(before.trials) :]
    assert len(further) == 6
    assert not {trial.rate for trial in further} & {trial.rate for trial in before.trials}
    rates = [trial.rate for trial in further]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(1.15 * (found.broken_rate or 0))
    assert found.knee_rate is not None
    assert 0.5 * CAPACITY <= found.knee_rate <= CAPACITY


def test_the_curve_never_leaves_the_range() -> None:
    server = _Server()
    _find(server, _search(most_rate=84.0))
    assert min(server.asked) == 5.0
    assert max(server.asked) == 84.0


def test_the_curve_holds_medians_of_all_trials_by_rate() -> None:
    found = _find(_Server(noise=0.3, seed=1), _search())
    assert [point.rate for point in found.curve] == sorted({trial.rate for trial in found.trials})
    for point in found.curve:
        trials = [trial for trial in found.trials if trial.rate == point.rate]
        assert point.p99_ms == np.median([trial.p99_ms for trial in trials])
        assert point.kept == (2 * sum(trial.kept for trial in trials) > len(trials))


def test_every_trial_is_told() -> None:
    heard: list[Trial] = []
    found = _find(_Server(), _search(), heard)
    assert tuple(heard) == found.trials


@pytest.mark.parametrize("least", [0.5, 5.0, 33.0])
@pytest.mark.parametrize("most", [33.0, 70.0, 400.0])
@pytest.mark.parametrize("precision", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("confirmations", [1, 2, 3, 5])
def test_the_number_of_trials_is_known_before(least: float, most: float, precision: float, confirmations: int) -> None:
    search = _search(least_rate=least, most_rate=most, precision=precision, confirmations=confirmations)
    for noise in (0.0, 0.5):
        server = _Server(noise=noise, seed=2)
        _find(server, search)
        assert len(server.asked) <= most_trials(search)


@pytest.mark.parametrize(
    "change",
    [
        "least_rate = 0",
        "least_rate = 500",
        "most_rate = 1e9",
        "trial_s = 0",
        "confirmations = 0",
        "precision = 0.0",
        "precision = 2",
        "curve_points = -1",
        "curve_points = 10_000",
    ],
)
def test_a_search_without_end_is_refused(tmp_path: Path, change: str) -> None:
    wanted = {"least_rate": "5", "most_rate": "400"}
    key, _, value = change.partition(" = ")
    lines = "\n".join(f"{name} = {number}" for name, number in {**wanted, key: value}.items())
    file = tmp_path / "search.toml"
    file.write_text(_SCENARIO + lines)
    with pytest.raises(ScenarioError, match=f"search.{key} must be"):
        load_scenario(file)
    file.write_text(_SCENARIO + "least_rate = 5\nmost_rate = 400")
    assert load_scenario(file).search == _search()
