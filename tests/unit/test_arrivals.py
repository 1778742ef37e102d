"""When requests are due and of which kind, against integrals and the statistics of a Poisson process."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, pairwise, takewhile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.loadtest.arrivals import OpenLoop, due_times, mean_rate
from tubelet.loadtest.mixture import kinds_at_random
from tubelet.loadtest.scenario import Bursts, RequestKind, Spacing, Steady, Steps, Stream, Trace
from tubelet.spec.errors import ScenarioError

NOWHERE = Path("/nowhere")
RAMP = ((10.0, 0.0, 20.0), (5.0, 20.0, 20.0), (5.0, 0.0, 0.0), (10.0, 20.0, 4.0))
"""100, 100, 0 and 120 requests in 30 s."""


def times(arrivals: OpenLoop, *, scale: float = 1.0, seed: int = 0, folder: Path = NOWHERE) -> Iterator[float]:
    return due_times(arrivals, scale=scale, random=Random(seed), folder=folder)


def until(end_s: float, arrivals: OpenLoop, *, scale: float = 1.0, seed: int = 0) -> list[float]:
    return list(takewhile(lambda due: due < end_s, times(arrivals, scale=scale, seed=seed)))


def steady(rate: float, spacing: Spacing = "poisson") -> Steady:
    return Steady(kind="steady", rate=rate, spacing=spacing)


def steps(*stages: tuple[float, float, float], spacing: Spacing = "constant") -> Steps:
    return Steps(kind="steps", stages=stages, spacing=spacing)


def integral(stages: tuple[tuple[float, float, float], ...], due_s: float) -> float:
    """Requests that should have come until then, by trapezoids."""
    turns, left = divmod(due_s, sum(seconds for seconds, _, _ in stages))
    found = turns * sum(seconds * (first + last) / 2 for seconds, first, last in stages)
    for seconds, first, last in stages:
        inside = min(left, seconds)
        found += inside * (first + (first + (last - first) * inside / seconds)) / 2
        left -= inside
    return found


@pytest.fixture
def trace(tmp_path: Path) -> Callable[[str], Trace]:
    def write(text: str) -> Trace:
        (tmp_path / "t.txt").write_text(text, encoding="utf-8")
        return Trace(kind="trace", file="t.txt")

    return write


def test_constant_arrivals_are_exactly_even():
    assert list(islice(times(steady(8.0, "constant")), 5)) == [0.0, 0.125, 0.25, 0.375, 0.5]
    assert len(until(60.0, steady(50.0, "constant"))) == 3000
    assert list(islice(times(steady(8.0, "constant"), scale=2.0), 3)) == [0.0, 0.0625, 0.125]


def test_a_steady_stream_does_not_drift():
    assert next(islice(times(steady(3.0, "constant")), 1_000_000, None)) == pytest.approx(1e6 / 3, rel=1e-12)


def test_poisson_arrivals_have_the_rate_and_gaps_without_memory():
    due = until(200.0, steady(50.0))
    gaps = [after - before for before, after in pairwise(due)]
    assert len(due) == pytest.approx(10_000, abs=500)  # five standard deviations
    assert statistics.mean(gaps) == pytest.approx(0.02, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.02, rel=0.08)
    assert statistics.correlation(gaps[:-1], gaps[1:]) == pytest.approx(0.0, abs=0.05)
    assert sum(gap > 0.04 for gap in gaps) / len(gaps) == pytest.approx(0.1353, abs=0.02)  # exp(-2)


def test_poisson_counts_of_a_second_vary_as_much_as_their_mean():
    counts = Counter(map(int, until(400.0, steady(20.0))))
    per_second = [counts[second] for second in range(400)]
    assert statistics.variance(per_second) / statistics.mean(per_second) == pytest.approx(1.0, abs=0.35)


def test_equal_seeds_give_equal_times_and_others_do_not():
    for arrivals in (steady(50.0), steps(*RAMP, spacing="poisson")):
        first = list(islice(times(arrivals, seed=7), 500))
        assert first == list(islice(times(arrivals, seed=7), 500))
        assert first != list(islice(times(arrivals, seed=8), 500))


def test_scale_multiplies_the_rate_and_keeps_the_pattern():
    slow, fast = (list(islice(times(steady(10.0), scale=scale, seed=1), 200)) for scale in (1.0, 4.0))
    assert fast == pytest.approx([due / 4 for due in slow])


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_constant_ramp_has_as_many_requests_as_its_integral(scale: float):
    due = until(30.0, steps(*RAMP), scale=scale)
    stage = [sum(begin <= moment < end for moment in due) for begin, end in pairwise((0, 10, 15, 20, 30))]
    assert stage == [100 * scale, 100 * scale, 0, 120 * scale]


def test_a_ramp_gets_denser_as_it_should():
    # From 0 to 20 a second in 10 s: t**2 requests until t.
    assert list(islice(times(steps(*RAMP)), 100)) == pytest.approx([number**0.5 for number in range(100)])


def test_poisson_ramps_follow_their_rate():
    due = until(1000.0, steps((1000.0, 0.0, 20.0), spacing="poisson"))
    early = sum(moment < 500.0 for moment in due)
    assert early == pytest.approx(2500, abs=250)
    assert len(due) - early == pytest.approx(7500, abs=435)


def test_stages_begin_again_after_the_last():
    due = until(90.0, steps(*RAMP))
    assert len(due) == 960
    assert due[320:640] == pytest.approx([moment + 30 for moment in due[:320]])
    assert due[640:] == pytest.approx([moment + 60 for moment in due[:320]])


def test_nothing_is_due_in_a_stage_without_a_rate():
    assert next(times(steps((10.0, 0.0, 0.0), (1.0, 5.0, 5.0)))) == 10.0
    due = until(300.0, steps(*RAMP, spacing="poisson"))
    assert not [moment for moment in due if 15.0 < moment % 30 < 20.0]


RATES = st.sampled_from([0.0, 1e-3]) | st.floats(0.01, 2000.0)
STAGES = st.lists(st.tuples(st.floats(0.01, 1000.0), RATES, RATES), min_size=1, max_size=5).filter(
    lambda stages: any(first + last > 0 for _, first, last in stages)
)


@given(stages=STAGES, scale=st.floats(0.01, 100.0), skip=st.integers(0, 300))
def test_the_nth_request_is_due_where_the_integral_is_n(stages, scale, skip):
    stages = tuple(stages)
    for number, due in islice(enumerate(times(steps(*stages), scale=scale)), skip, skip + 20):
        wanted = number / scale
        # Where the rate is next to nothing, rounding of a count is much time, and the other way around.
        allowed = 1e-6 * (1 + wanted + integral(stages, due * (1 + 1e-9)) - integral(stages, due * (1 - 1e-9)))
        assert integral(stages, due) == pytest.approx(wanted, abs=allowed)


@given(stages=STAGES, scale=st.floats(0.01, 100.0), spacing=st.sampled_from(["constant", "poisson"]))
def test_due_times_never_go_back(stages, scale, spacing):
    due = list(islice(times(steps(*stages, spacing=spacing), scale=scale), 500))
    assert due[0] >= 0
    assert due == sorted(due)


class Scripted(Random):
    """Gaps of a Poisson process as a test wants them."""

    def __init__(self, *gaps: float):
        super().__init__()
        self.gaps = iter(gaps)

    def expovariate(self, lambd: float = 1.0) -> float:
        return next(self.gaps)


def test_rounding_sends_no_request_back():
    awkward = steps((0.1, 45.882008929160875, 0.7), (10.0, 3.391451493198294, 37.78699343528927), spacing="poisson")
    begin = 3667193.977465631  # some roundings before the stages have begun again 17612 times
    random = Scripted(begin, *(math.ulp(begin) for _ in range(16)))
    due = list(islice(due_times(awkward, scale=1.0, random=random, folder=NOWHERE), 17))
    assert due == sorted(due)
    assert due == pytest.approx([17612 * 10.1] * 17)


def test_the_smallest_gap_at_the_beginning_of_a_ramp_counts_as_none():
    ramp = steps((100.0, 0.0, 1.0), spacing="poisson")
    assert next(due_times(ramp, scale=1.0, random=Scripted(5e-324), folder=NOWHERE)) == 0.0


def test_bursts_come_at_once_and_scale_brings_them_more_often():
    bursts = Bursts(kind="bursts", size=3, every_s=2.0)
    assert list(islice(times(bursts), 7)) == [0, 0, 0, 2, 2, 2, 4]
    assert list(islice(times(bursts, scale=4.0), 7)) == [0, 0, 0, 0.5, 0.5, 0.5, 1.0]


def test_a_trace_is_replayed(trace, tmp_path):
    recorded = trace("# seconds\n\n0.5\n 0.5 \n2e0  # late\n3\n")
    assert list(times(recorded, folder=tmp_path)) == [0.5, 0.5, 2.0, 3.0]
    fast = Trace(kind="trace", file="t.txt", speed=2.0)
    assert list(times(fast, scale=5.0, folder=tmp_path)) == pytest.approx([0.05, 0.05, 0.2, 0.3])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n2\n1.5\n", r"t\.txt, line 3: .* 2 or more, got '1\.5'"),
        ("-1\n", r"line 1: .* 0 or more, got '-1'"),
        ("# begin\n1\nsoon\n", r"line 3: .*'soon'"),
        ("1\nnan\n", "line 2"),
        ("1\ninf\n", "line 2"),
        ("# nothing\n\n", r"t\.txt must hold moments after 0 s, got 0 moments"),
        ("0\n0.0\n", "must hold moments after 0 s, got 2 moments"),
    ],
)
def test_bad_traces_are_named_with_their_line(trace, tmp_path, text, words):
    bad = trace(text)
    with pytest.raises(ScenarioError, match=words):  # at once, before anything is sent
        times(bad, folder=tmp_path)
    with pytest.raises(ScenarioError, match=words):
        mean_rate(bad, folder=tmp_path)


def test_traces_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe1\n")
    for file, words in (("t.txt", "must be text"), ("none.txt", r"cannot read the trace .*none\.txt: No such file")):
        with pytest.raises(ScenarioError, match=words) as caught:
            times(Trace(kind="trace", file=file), folder=tmp_path)
        assert caught.value.code == "bad_scenario"


def test_mean_rates(trace, tmp_path):
    trace("1\n2\n2\n5\n")
    for arrivals, rate in (
        (steady(12.5), 12.5),
        (steps(*RAMP), 320 / 30),
        (Bursts(kind="bursts", size=30, every_s=4.0), 7.5),
        (Trace(kind="trace", file="t.txt", speed=2.0), 4 / 5 * 2),
    ):
        assert mean_rate(arrivals, folder=tmp_path) == pytest.approx(rate)


def kind(name: str, weight: float) -> RequestKind:
    return RequestKind(name=name, model="m", videos="v", weight=weight)


def stream(*kinds: RequestKind) -> Stream:
    return Stream(name="s", arrivals=steady(1.0), requests=kinds)


def test_kinds_come_as_often_as_their_weights_say():
    mixed = stream(kind("often", 6.0), kind("seldom", 1.5), kind("rare", 0.5))
    counts = Counter(one.name for one in islice(kinds_at_random(mixed, Random(0)), 16_000))
    assert counts["often"] == pytest.approx(12_000, abs=275)  # five standard deviations
    assert counts["seldom"] == pytest.approx(3_000, abs=247)
    assert counts["rare"] == pytest.approx(1_000, abs=154)


def test_kinds_are_mixed_and_repeat_with_the_seed():
    mixed = stream(kind("a", 1.0), kind("b", 1.0))
    first, again, other = ([one.name for one in islice(kinds_at_random(mixed, Random(n)), 600)] for n in (3, 3, 4))
    assert first == again
    assert first != other
    changes = sum(before != after for before, after in pairwise(first))
    assert changes == pytest.approx(300, abs=62)  # no long runs, no turns


def test_one_kind_goes_on_for_ever():
    only = kind("only", 0.001)
    assert set(islice(kinds_at_random(stream(only), Random(0)), 5000)) == {only}
