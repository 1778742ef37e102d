"""The adaptive limit, against a simulated server: a queue before some workers, with a clock of its own."""

import heapq
import random
from dataclasses import dataclass, field

import pytest

from tubelet.archive.pace import Pace

HOLD_S = 0.1


@dataclass
class Simulation:
    """A server with ``workers``, each busy ``service_s`` (give or take a fifth), and a client that obeys the pace.

    With ``queue`` waiting, one more is refused. ``others`` requests of other callers are in it all the time.
    """

    pace: Pace
    workers: int
    service_s: float = 0.2
    queue: int = 64
    others: int = 0
    travel_s: float = 0.01
    supply_s: float = 0.0
    """Least time between two requests, where videos do not come fast enough."""
    now_s: float = 0.0
    answered: int = 0
    refusals: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(4)
        self.in_flight = 0
        self.server = 0
        self.free_at = [0.0] * self.workers
        self.held_until_s = self.next_supply_s = self.wake_s = 0.0
        self.events: list[tuple[float, int, str, float]] = []

    def run(self, until_s: float) -> int:
        """Lets time pass; how many answers came."""
        before = self.answered
        self.fill()
        while self.events and self.events[0][0] <= until_s:
            self.now_s, _, what, sent_s = heapq.heappop(self.events)
            if what == "done":
                self.server -= 1
                self.later(self.travel_s, "answer", sent_s)
            elif what == "answer":
                self.answered += 1
                self.pace.answered(self.now_s, sent_s=sent_s, was_full=self.in_flight >= self.pace.limit)
                self.in_flight -= 1
            elif what == "refusal":
                self.refusals.append(self.now_s)
                self.pace.overloaded(self.now_s, sent_s=sent_s)
                self.in_flight -= 1
                self.held_until_s = self.now_s + HOLD_S
                self.later(HOLD_S, "wake", 0.0)
            self.fill()
        self.now_s = max(self.now_s, until_s)
        return self.answered - before

    def later(self, seconds: float, what: str, sent_s: float) -> None:
        heapq.heappush(self.events, (self.now_s + seconds, self.random.getrandbits(62), what, sent_s))

    def fill(self) -> None:
        while self.in_flight < self.pace.limit and self.now_s >= self.held_until_s:
            if self.now_s < self.next_supply_s:
                if self.next_supply_s != self.wake_s:
                    self.wake_s = self.next_supply_s
                    self.later(self.wake_s - self.now_s, "wake", 0.0)
                return
            self.next_supply_s = self.now_s + self.supply_s
            self.in_flight += 1
            if self.server + self.others >= self.queue + self.workers:
                self.later(self.travel_s, "refusal", self.now_s)
                continue
            self.server += 1
            start_s = max(self.now_s, heapq.heappop(self.free_at))
            end_s = start_s + self.service_s * self.random.uniform(0.8, 1.2)
            heapq.heappush(self.free_at, end_s)
            self.later(end_s - self.now_s, "done", self.now_s)

    @property
    def peak(self) -> float:
        return self.workers / self.service_s


@pytest.mark.parametrize("workers", [1, 2, 8, 24])
def test_it_keeps_a_server_full_without_refusals(workers: int) -> None:
    simulation = Simulation(Pace(), workers)
    simulation.run(120.0)
    assert simulation.run(240.0) >= 0.95 * simulation.peak * 120
    assert simulation.refusals == []
    assert simulation.pace.limit <= 64 + workers


@pytest.mark.parametrize(("workers", "queue"), [(2, 1), (2, 4), (4, 2), (16, 4)])
def test_a_short_queue_refuses_seldom_and_the_server_is_full_all_the_same(workers: int, queue: int) -> None:
    simulation = Simulation(Pace(start=16), workers, queue=queue)
    simulation.run(200.0)
    begun = len(simulation.refusals)
    assert simulation.run(1400.0) >= 0.95 * simulation.peak * 1200
    # Some 300 s after the last refusal it looks whether there is more room, then after twice as long.
    assert len(simulation.refusals) - begun <= 6


def test_refusals_lower_the_limit_at_once_and_those_of_one_burst_only_once() -> None:
    pace = Pace(start=16)
    for _ in range(10):
        pace.overloaded(1.0, sent_s=0.5)
    assert pace.limit == 11
    pace.overloaded(2.0, sent_s=1.5)
    assert pace.limit == 7


def test_a_refused_level_is_tried_again_only_after_its_time() -> None:
    simulation = Simulation(Pace(start=16), 4, queue=2)
    simulation.run(290.0)
    last_s = simulation.refusals[-1]
    assert simulation.pace.limit < 16
    simulation.queue = 60
    simulation.run(last_s + 295.0)
    assert simulation.refusals[-1] == last_s


def test_it_gives_way_to_other_callers() -> None:
    simulation = Simulation(Pace(), 4, queue=16)
    simulation.run(60.0)
    simulation.others = 17
    simulation.run(120.0)
    limit, begun = simulation.pace.limit, len(simulation.refusals)
    assert limit <= 4
    simulation.run(180.0)
    assert len(simulation.refusals) <= begun + 2


def test_a_limit_that_videos_do_not_fill_is_not_raised() -> None:
    simulation = Simulation(Pace(), 8, supply_s=0.1)
    simulation.run(300.0)
    assert simulation.pace.limit <= 8


def test_it_stops_at_the_most() -> None:
    simulation = Simulation(Pace(most=10), 32)
    simulation.run(200.0)
    assert simulation.pace.limit == 10


def test_an_interruption_ends_a_probe() -> None:
    simulation = Simulation(Pace(), 4)
    simulation.run(30.0)
    held = simulation.pace.limit
    until_s = 30.0
    while simulation.pace.phase != "probing":
        held = simulation.pace.limit
        until_s += 0.5
        simulation.run(until_s)
    simulation.pace.interrupted(simulation.now_s)
    assert (simulation.pace.phase, simulation.pace.limit) == ("holding", held)


def test_a_fixed_limit_stays() -> None:
    simulation = Simulation(Pace(fixed=3), 8, queue=1)
    simulation.run(60.0)
    simulation.pace.overloaded(61.0, sent_s=60.5)
    simulation.pace.interrupted(62.0)
    assert simulation.pace.limit == 3


def test_a_server_with_room_gets_more_than_it_needs() -> None:
    pace = Pace()
    pace.comfort = 32
    simulation = Simulation(pace, 2)
    simulation.run(120)
    assert pace.limit >= 32
    assert simulation.refusals == []


def test_a_server_that_is_slow_does_not() -> None:
    """Each request would wait for all others, until its deadline."""
    pace = Pace()
    pace.comfort = 32
    Simulation(pace, 2, service_s=10.0).run(4000)
    assert pace.limit <= 8
