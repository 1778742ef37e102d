"""One measurement: arrivals, latencies and ends, with a scripted server in simulated time."""

from __future__ import annotations

import asyncio
import fcntl
import select
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from simulated_time import block_for, run_simulated

from tubelet.loadtest.histograms import from_text
from tubelet.loadtest.measured import Latency, Measurement, ServerFigures, ServerSeries
from tubelet.loadtest.running import Progress, event_loop, measure
from tubelet.loadtest.scenario import Arrivals, Bursts, Closed, RequestKind, Scenario, Steady, Stream, Synthetic, Trace
from tubelet.loadtest.sending import Reply
from tubelet.spec.errors import InvalidVideoError, OverloadedError, ScenarioError

REPLY = Reply(protocol="1x1", views=2, units=3, server_ms=4.0, num_bytes=100)
EVEN = Steady(kind="steady", rate=100, spacing="constant")

Answer = Callable[[str, int], Awaitable[Reply]]


def now() -> float:
    return asyncio.get_running_loop().time() - 1000


class Scripted:
    """Answers after 10 ms, or as ``answer`` says; remembers when it was asked, and how many were there at a time."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.asked: list[tuple[float, str, int]] = []
        self.here = self.most_here = self.cancelled = 0

    async def send(self, kind_name: str, index: int) -> Reply:
        self.asked.append((now(), kind_name, index))
        self.here += 1
        self.most_here = max(self.most_here, self.here)
        try:
            if self.answer is not None:
                return await self.answer(kind_name, index)
            await asyncio.sleep(0.01)
            return REPLY
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.here -= 1


def kind(name: str = "clip", **options: Any) -> RequestKind:
    return RequestKind(name=name, model="motion", videos="v", **options)


def scenario(arrivals: Arrivals, *others: Stream, **options: Any) -> Scenario:
    stream = Stream(name="main", arrivals=arrivals, requests=(kind(),))
    basis = Scenario(
        name="test",
        url="127.0.0.1:1",
        videos={"v": Synthetic(kind="synthetic")},
        streams=(stream, *others),
        duration_s=4.0,
        warm_up_s=1.0,
    )
    return replace(basis, **options)


def run(
    what: Scenario, sender: Scripted, *, stop_at: float | None = None, folder: Path = Path(), **options: Any
) -> Measurement:
    async def work() -> Measurement:
        stop = asyncio.Event()
        if stop_at is not None:
            asyncio.get_running_loop().call_at(1000 + stop_at, stop.set)
        found = await measure(what, sender, folder=folder, stop=stop, **{"watch": None, **options})
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return found

    return run_simulated(work())


def slower_than(latency: Latency, seconds: float) -> int:
    histogram = from_text(latency.histogram)
    return sum(
        item.count_at_value_iterated_to
        for item in histogram.get_recorded_iterator()
        if item.value_iterated_to > seconds * 1e6
    )


def check_sums(found: Measurement) -> None:
    """Every request is in exactly one place."""
    together = found.together
    assert together.requests == together.answered + sum(together.errors.values()) + together.cut_off
    assert together.requests == sum(found.series.due) == sum(block.requests for block in together.blocks)
    assert together.latency.count == together.server.count == together.answered
    assert together.failure_latency.count == sum(together.errors.values())
    assert sum(block.errors for block in together.blocks) == sum(together.errors.values())
    for name in ("requests", "answered", "cut_off", "views", "units", "bytes_sent"):
        assert getattr(together, name) == sum(getattr(one, name) for one in found.kinds)


def test_a_stalled_server_shows_in_every_request_that_was_due_meanwhile() -> None:
    async def stalled_from_2_to_4(_: str, __: int) -> Reply:
        await asyncio.sleep(0.01 + max(0.0, 4 - now() if now() >= 2 else 0.0))
        return REPLY

    sender = Scripted(stalled_from_2_to_4)
    found = run(scenario(EVEN), sender)
    check_sums(found)
    latency = found.together.latency
    # They were due evenly, so their latencies fall evenly from two seconds to none.
    assert [slower_than(latency, seconds) for seconds in (2.05, 1.995, 1.495, 0.995, 0.495)] == [0, 2, 52, 102, 152]
    assert latency.count == 400
    assert 1990 < latency.p999_ms <= latency.max_ms < 2030
    assert found.generator.lag.max_ms < 1
    assert found.series.max_ms[1] == pytest.approx(2010, abs=1)
    assert found.series.in_flight == pytest.approx((0, 100, 200, 0), abs=2)


def test_a_generator_that_was_late_sends_all_that_was_due_and_says_so() -> None:
    async def blocks_once(_: str, index: int) -> Reply:
        if index == 200:
            block_for(0.3)
        await asyncio.sleep(0.01)
        return REPLY

    sender = Scripted(blocks_once)
    found = run(scenario(EVEN), sender)
    check_sums(found)
    assert found.together.requests == found.together.answered == 400
    # Due 10, 20, ... 300 ms after the one that blocked.
    assert [slower_than(found.generator.lag, seconds) for seconds in (0.295, 0.145, 0.005)] == [0, 15, 29]
    assert [slower_than(found.together.latency, seconds) for seconds in (0.305, 0.155, 0.015)] == [1, 16, 30]
    assert not found.generator.is_on_time
    assert run(scenario(EVEN), Scripted()).generator.is_on_time


def test_what_is_done_with_an_answer_is_in_no_latency() -> None:
    async def read_for_long(_: str, __: int) -> Reply:
        await asyncio.sleep(0.002)
        came_s = asyncio.get_running_loop().time()
        block_for(0.005)
        return REPLY._replace(at_s=came_s)

    latency = run(scenario(EVEN), Scripted(read_for_long)).together.latency
    assert latency.count == 400
    assert 1.9 < latency.p50_ms <= latency.max_ms < 2.1


def test_lateness_does_not_matter_beside_a_long_latency() -> None:
    async def slow(_: str, index: int) -> Reply:
        if index % 10 == 0:
            block_for(0.03)
        await asyncio.sleep(0.5)
        return REPLY

    found = run(scenario(EVEN), Scripted(slow))
    assert found.generator.lag.p99_ms > 10
    assert found.generator.is_on_time


@pytest.mark.parametrize("pause_s", [0.0, 0.09])
def test_closed_loops_keep_as_many_under_way_as_there_are_callers(pause_s: float) -> None:
    sender = Scripted()
    found = run(scenario(Closed(kind="closed", callers=3, pause_s=pause_s), most_in_flight=1), sender)
    check_sums(found)
    assert sender.most_here == 3
    assert found.together.requests == pytest.approx(3 * 4 / (0.01 + pause_s), abs=3)
    assert found.together.latency.p50_ms == pytest.approx(10, rel=0.01)
    assert found.generator.lag.count == 0
    assert found.generator.is_on_time
    assert found.duration_s == pytest.approx(4)


def test_callers_whose_requests_fail_at_once_end_in_time() -> None:
    async def refuses(_: str, index: int) -> Reply:
        if index % 2:
            await asyncio.sleep(0.01)
        raise OverloadedError("overloaded", "no")

    found = run(scenario(Closed(kind="closed", callers=2)), Scripted(refuses))
    assert found.together.errors == {"overloaded": found.together.requests}
    assert found.together.answered == 0
    assert found.rate == 0


def test_the_warm_up_is_the_same_load_and_in_no_figure_but_its_errors() -> None:
    async def bad_at_first(_: str, index: int) -> Reply:
        if now() < 1:
            await asyncio.sleep(0.005)
            raise OverloadedError("overloaded", "no") if index % 4 else InvalidVideoError("not_a_video", "no")
        await asyncio.sleep(0.01)
        return REPLY

    sender = Scripted(bad_at_first)
    found = run(scenario(EVEN), sender)
    check_sums(found)
    assert found.warm_up_errors == {"overloaded": 75, "not_a_video": 25}
    assert found.together.errors == {}
    assert found.together.requests == found.together.answered == 400
    moments = [moment for moment, _, _ in sender.asked]
    assert len(moments) == 500
    assert all(after - before == pytest.approx(0.01, abs=1e-6) for before, after in pairwise(moments))
    assert [index for _, _, index in sender.asked] == list(range(500))


def test_answers_to_the_warm_up_count_as_throughput_and_those_that_come_late_do_not() -> None:
    async def takes_a_second(_: str, __: int) -> Reply:
        await asyncio.sleep(1)
        return REPLY

    found = run(scenario(EVEN), Scripted(takes_a_second))
    check_sums(found)
    assert found.together.answered == 400
    assert found.together.latency.p50_ms == pytest.approx(1000, rel=0.002)
    assert found.series.answered == pytest.approx((100, 100, 100, 100), abs=1)
    assert found.series.in_flight == pytest.approx((100, 100, 100, 100), abs=1)
    assert found.rate == pytest.approx(100, abs=1)
    assert found.views_rate == pytest.approx(200, abs=2)
    assert found.units_rate == pytest.approx(300, abs=3)
    cold = run(scenario(EVEN, warm_up_s=0.0), Scripted(takes_a_second))
    assert cold.together.answered == 400
    assert cold.rate == pytest.approx(75, abs=1)
    assert cold.offered_rate == 100


def test_a_stop_ends_it_at_once_with_what_it_has() -> None:
    async def hangs_after_2(_: str, __: int) -> Reply:
        await asyncio.sleep(0.01 if now() < 2 else 1000)
        return REPLY

    sender = Scripted(hangs_after_2)
    found = run(scenario(EVEN), sender, stop_at=2.505)
    check_sums(found)
    assert found.stopped_by == "interrupted"
    assert found.duration_s == pytest.approx(1.505)
    assert found.together.answered == pytest.approx(100, abs=1)
    assert found.together.cut_off == sender.cancelled == pytest.approx(51, abs=1)
    assert found.together.errors == {}
    assert found.offered_rate == pytest.approx(100, rel=0.02)
    assert max(moment for moment, _, _ in sender.asked) < 2.505
    assert found.series.in_flight[-1] == found.together.cut_off


@pytest.mark.parametrize("arrivals", [EVEN, Closed(kind="closed", callers=2)])
def test_a_stop_in_the_warm_up_leaves_nothing(arrivals: Arrivals) -> None:
    found = run(scenario(arrivals, promise="p99 <= 1 s"), Scripted(), stop_at=0.5)
    assert (found.stopped_by, found.duration_s, found.together.requests, found.rate) == ("interrupted", 0, 0, 0)
    assert found.together.latency.count == found.generator.lag.count == 0
    assert not found.promised[0].kept


def test_a_stop_while_the_last_answers_are_awaited_cuts_them_off() -> None:
    async def slow(_: str, __: int) -> Reply:
        await asyncio.sleep(3)
        return REPLY

    found = run(scenario(EVEN), Scripted(slow), stop_at=6)
    check_sums(found)
    assert found.stopped_by == "interrupted"
    assert found.duration_s == 4
    assert found.together.answered == pytest.approx(200, abs=1)
    assert found.together.cut_off == pytest.approx(200, abs=1)


@pytest.mark.parametrize(
    "arrivals", [EVEN, Bursts(kind="bursts", size=40, every_s=0.2), Closed(kind="closed", callers=7)]
)
def test_it_ends_after_the_most_requests(arrivals: Arrivals) -> None:
    sender = Scripted()
    found = run(scenario(arrivals, most_requests=150), sender)
    check_sums(found)
    assert found.stopped_by == "count"
    assert found.together.requests == found.together.answered == 150
    assert 0 < found.duration_s < 2
    assert sum(moment >= 1 for moment, _, _ in sender.asked) == 150


def test_a_request_beyond_the_most_in_flight_is_counted_and_not_sent() -> None:
    async def slow(_: str, __: int) -> Reply:
        await asyncio.sleep(0.1)
        return REPLY

    sender = Scripted(slow)
    found = run(scenario(EVEN, most_in_flight=5), sender)
    check_sums(found)
    assert sender.most_here == 5
    assert found.together.requests == 400
    assert found.together.answered == pytest.approx(200, abs=10)
    assert found.together.errors == {"not_sent": 400 - found.together.answered}
    assert found.warm_up_errors["not_sent"] == pytest.approx(50, abs=5)
    assert found.generator.lag.count == found.together.answered


def test_requests_fail_alone_and_are_told_apart_by_kind_and_code() -> None:
    async def mixed(name: str, index: int) -> Reply:
        await asyncio.sleep(0.02)
        if name == "hostile":
            raise InvalidVideoError("not_a_video", "no")
        if index % 10 == 9:
            raise OverloadedError("overloaded", "no")
        return REPLY._replace(protocol="4x3") if name == "large" else REPLY

    requests = (kind("small", weight=3.0), kind("large"), kind("hostile"))
    archive = Stream(name="archive", arrivals=EVEN, requests=requests, priority="archive")
    found = run(scenario(EVEN, archive, duration_s=10.0), Scripted(mixed))
    check_sums(found)
    main, small, large, hostile = found.kinds
    assert found.together.requests == 2000
    assert [one.name for one in found.kinds] == ["clip", "small", "large", "hostile"]
    assert main.requests == 1000
    assert small.requests == pytest.approx(600, abs=60)
    assert main.errors == {"overloaded": 100}
    assert hostile.errors == {"not_a_video": hostile.requests}
    assert (hostile.answered, hostile.views, hostile.protocol) == (0, 0, "")
    assert list(found.together.errors) == ["not_a_video", "overloaded"]
    assert (main.protocol, large.protocol, found.together.protocol) == ("1x1", "4x3", "")
    assert (main.stream, large.stream, found.together.stream) == ("main", "archive", "")
    assert (main.priority, large.priority, found.together.model) == ("interactive", "archive", "motion")
    assert main.views == 2 * main.answered
    assert main.units == 3 * main.answered
    assert main.bytes_sent == 100 * main.answered
    assert main.server.p50_ms == pytest.approx(4, rel=0.001)
    assert main.failure_latency.p50_ms == pytest.approx(20, rel=0.001)


def test_what_is_no_error_of_ours_ends_it_and_leaves_no_task() -> None:
    async def broken(_: str, index: int) -> Reply:
        await asyncio.sleep(0.05)
        if index == 120:
            raise ZeroDivisionError
        return REPLY

    sender = Scripted(broken)

    async def work() -> None:
        with pytest.raises(ZeroDivisionError):
            await measure(scenario(EVEN), sender, folder=Path(), watch=None, stop=asyncio.Event())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_simulated(work())
    assert sender.here == 0
    assert sender.cancelled > 0


def test_who_is_cancelled_cancels_all_requests() -> None:
    sender = Scripted()

    async def work() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await measure(scenario(EVEN), sender, folder=Path(), watch=None, stop=asyncio.Event())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_simulated(work())
    assert sender.here == 0


def test_it_ends_with_its_traces(tmp_path: Path) -> None:
    (tmp_path / "trace.txt").write_text("0.5\n1.5\n1.5\n2.25\n")
    trace = Trace(kind="trace", file="trace.txt")
    found = run(scenario(trace), Scripted(), folder=tmp_path)
    check_sums(found)
    assert found.stopped_by == "duration"
    assert found.duration_s == pytest.approx(1.25)
    assert found.together.requests == found.together.answered == 3
    both = run(
        scenario(trace, Stream(name="on", arrivals=EVEN, requests=(kind("other"),))), Scripted(), folder=tmp_path
    )
    assert both.duration_s == 4
    assert [one.requests for one in both.kinds] == [3, 400]
    with pytest.raises(ScenarioError):
        run(scenario(EVEN, Stream(name="on", arrivals=trace, requests=(kind("other"),))), Scripted())


def test_rates_are_scaled_and_seeds_repeat_them() -> None:
    what = scenario(Steady(kind="steady", rate=50), duration_s=20.0)
    first, again, double, other = Scripted(), Scripted(), Scripted(), Scripted()
    run(what, first)
    run(what, again)
    run(replace(what, seed=1), other)
    assert first.asked == again.asked != other.asked
    assert run(what, double, scale=2.0).offered_rate == pytest.approx(100, rel=0.1)


def test_the_server_is_looked_at_while_it_is_measured() -> None:
    class Looks:
        def __init__(self) -> None:
            self.seen: list[tuple[str, float]] = []

        async def open(self) -> None:
            self.seen.append(("open", now()))

        async def begin(self) -> None:
            self.seen.append(("begin", now()))
            await asyncio.sleep(0.25)

        async def sample(self) -> None:
            self.seen.append(("sample", now()))

        async def end(self) -> ServerFigures:
            self.seen.append(("end", now()))
            series = ServerSeries(at_s=(), cpu_cores=(), memory_mib=(), queued=())
            return ServerFigures(version="2", steps=(), processes=(), gpus=(), series=series, restarts=0)

    async def takes_two_seconds(_: str, __: int) -> Reply:
        await asyncio.sleep(2)
        return REPLY

    looks = Looks()
    found = run(scenario(EVEN), Scripted(takes_two_seconds), watch=looks)
    assert found.server is not None
    assert [name for name, _ in looks.seen] == ["open", "begin", *["sample"] * 5, "end"]
    assert [moment for _, moment in looks.seen] == pytest.approx([0, 1, 2.25, 3.25, 4.25, 5.25, 6.25, 6.99], abs=0.02)
    early = Looks()
    assert run(scenario(EVEN), Scripted(), watch=early, stop_at=0.5).server is None
    assert [name for name, _ in early.seen] == ["open", "end"]


def test_it_says_how_far_it_is() -> None:
    async def takes_two_seconds(_: str, __: int) -> Reply:
        await asyncio.sleep(2)
        return REPLY

    heard: list[Progress] = []
    run(scenario(EVEN, warm_up_s=1.5), Scripted(takes_two_seconds), on_tick=heard.append)
    assert [one.phase for one in heard] == ["warm-up", *["load"] * 4, *["last answers"] * 2]
    assert [one.seconds for one in heard] == pytest.approx([1, 0.5, 1.5, 2.5, 3.5, 0.5, 1.5])
    assert [one.due for one in heard] == pytest.approx([0, 50, 150, 250, 350, 400, 400], abs=1)
    assert [one.answered for one in heard] == pytest.approx([0, 0, 0, 50, 150, 250, 350], abs=1)
    assert [one.in_flight for one in heard] == pytest.approx([100, 200, 200, 200, 200, 150, 50], abs=1)
    assert str(replace(heard[4], due=350, answered=150, in_flight=200)) == (
        "load 4 of 4 s: 350 due, 150 answered, 0 errors, 200 in flight, p50 2007 ms, p99 2007 ms"
    )


def test_the_promise_is_judged() -> None:
    found = run(scenario(EVEN, promise="p99 <= 500 ms, p50 <= 5 ms"), Scripted())
    assert [(one.clause, one.kept) for one in found.promised] == [("p99 <= 500 ms", True), ("p50 <= 5 ms", False)]
    with pytest.raises(ScenarioError):
        run(scenario(EVEN, promise="fast"), Scripted())


def test_the_event_loop_waits_exactly_and_has_room_for_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def spying(*arguments: Any) -> Any:
        waits.append(arguments[3])
        return really(*arguments)

    really = select.select
    monkeypatch.setattr(select, "select", spying)

    async def work() -> bytes:
        await asyncio.sleep(0.0005)
        one, other = socket.socketpair()
        number = fcntl.fcntl(one, fcntl.F_DUPFD, 1024)
        one.close()
        loop = asyncio.get_running_loop()
        with socket.socket(fileno=number) as high, other:
            high.setblocking(False)
            loop.call_later(0.001, other.send, b"here")
            return await loop.sock_recv(high, 4)

    with asyncio.Runner(loop_factory=event_loop) as runner:
        assert runner.run(work()) == b"here"
    assert 0 < min(waits) < 0.0005
