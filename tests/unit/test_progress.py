import asyncio
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest

from tubelet.archive.counting import counted_beside
from tubelet.archive.events import Answered, Away, Back, Flow, SetAside
from tubelet.archive.items import Item
from tubelet.archive.ledger import Counts
from tubelet.archive.monitor import Monitor
from tubelet.archive.progress import JsonProgress, LineProgress, describe_state, show_summary
from tubelet.archive.rows import Row
from tubelet.archive.sources import Source
from tubelet.archive.state import State
from tubelet.archive.summary import Summary, Tally
from tubelet.spec.errors import InvalidRequestError, MachineError

BEFORE = Counts(done=100, failed=0, copied=0)
GOOD = Row(item=Item("/a.mp4"), content_sha256="0", size_bytes=2**20, started_s=0.0, finished_s=1.0, views=12)
BAD = replace(GOOD, views=None, error_code="not_a_video", error_message="no video")
COPY = replace(GOOD, copied_from="/b.mp4")


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fill(state: State, clock: Clock) -> None:
    state.began(BEFORE)
    for row in (GOOD, GOOD, COPY, BAD):
        state.row(row)
    state.event(Flow("here:1", 3, 4, 10))
    state.event(Flow("there:1", 2, 4, 10))
    clock.now_s += 2
    state.tick()


def test_rates_and_the_time_that_is_left(clock: Clock) -> None:
    state = State(clock)
    fill(state, clock)
    assert state.rates == (2.0, 12.0)  # a copy's views were not computed
    assert state.seconds_left is None
    assert describe_state(state) == "104 done · 2.0 per s · 12 views per s · 5 in flight · 1 failed"
    state.counted(324)
    assert describe_state(state) == "104 of 324 · 2.0 per s · 12 views per s · 5 in flight · 1 failed · 1:50 left"
    for _ in range(60):
        clock.now_s += 1
        state.tick()
    assert state.rates[0] == 0.0  # of the latest half minute
    assert state.seconds_left is None


def test_lines_where_there_is_no_terminal(clock: Clock) -> None:
    file = io.StringIO()
    with LineProgress(file, clock=clock) as progress:
        fill(progress, clock)
        progress.event(Away("here:1", "no server answers\x1b[2J"))
        progress.event(Back("here:1"))
        progress.event(SetAside("/[red]a.mp4", "late"))
        clock.now_s += 31
        progress.tick()
        progress.tick()
    assert file.getvalue().splitlines() == [
        "100 items were done before; going on",
        r"here:1 is away, looking for it: no server answers\x1b[2J",
        "here:1 answers",
        "set aside, to be asked alone: /[red]a.mp4: late",
        "104 done · 0.0 per s · 0 views per s · 5 in flight · 1 failed",
    ]


def test_objects_for_programs(clock: Clock) -> None:
    file = io.StringIO()
    progress = JsonProgress(file, clock=clock)
    fill(progress, clock)
    progress.counted(124)
    progress.event(Away("here:1", "gone"))
    progress.event(Answered("here:1", 0.1, "ok"))
    clock.now_s = 81.0
    progress.tick()
    events = [json.loads(line) for line in file.getvalue().splitlines()]
    assert events[0] == {"event": "away", "server": "here:1", "reason": "gone"}
    assert [event["event"] for event in events] == ["away", "progress"]
    assert events[1] == {
        "event": "progress",
        "done_now": 4,
        "done_before": 100,
        "total": 124,
        "failed_now": 1,
        "in_flight": 5,
        "per_s": 0.13,
        "views_per_s": 0.77,
        "seconds_left": 155.0,
    }


def test_the_closing_summary() -> None:
    tally = Tally()
    for row in (GOOD, COPY, BAD, BAD, replace(BAD, error_code="truncated")):
        tally.add(row)
    summary = Summary(
        folder=Path("out"), tally=tally, before=7, done=12, failed=3, parts=2, seconds=2.0, is_complete=True
    )
    file = io.StringIO()
    show_summary(summary, file=file, as_json=False)
    assert [line.split() for line in file.getvalue().splitlines()][-3:] == [
        ["errors", "now", "items"],
        ["not_a_video", "2"],
        ["truncated", "1"],
    ]
    assert file.getvalue().startswith("done: 5 items now, 7 before\n12 in all, 3 of them with an error\n1 copied now")
    assert "0:02, 2.5 items and 2.5 MiB per s\n2 parts in out\n" in file.getvalue()
    file = io.StringIO()
    show_summary(summary, file=file, as_json=True)
    found = json.loads(file.getvalue())
    assert (found["event"], found["failed_now"]) == ("summary", {"not_a_video": 2, "truncated": 1})


def test_metrics() -> None:
    with Monitor(0) as monitor:
        monitor.began(BEFORE)
        for row in (GOOD, COPY, BAD):
            monitor.row(row)
        monitor.counted(110)
        monitor.row(GOOD)
        monitor.event(Flow("here:1", 3, 4, 10))
        monitor.event(Back("here:1"))
        monitor.event(Away("there:1", "gone"))
        monitor.event(Answered("here:1", 0.03, "ok"))
        with urlopen(monitor.address) as answer:
            lines = answer.read().decode().splitlines()
        with pytest.raises(MachineError, match="cannot serve metrics on"):
            Monitor(int(monitor.address.rpartition(":")[2].partition("/")[0]))
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#") and "_created" not in line)
    assert {name: float(value) for name, value in values.items() if "_seconds_" not in name} == {
        'tubelet_score_videos_total{outcome="ok"}': 2,
        'tubelet_score_videos_total{outcome="copied"}': 1,
        'tubelet_score_videos_total{outcome="not_a_video"}': 1,
        "tubelet_score_bytes_total": 4 * 2**20,
        "tubelet_score_views_total": 24,
        'tubelet_score_in_flight{server="here:1"}': 3,
        'tubelet_score_pace{server="here:1"}': 4,
        'tubelet_score_server_up{server="here:1"}': 1,
        'tubelet_score_server_up{server="there:1"}': 0,
        "tubelet_score_waiting_bytes": 10,
        "tubelet_score_items_left": 6,
    }
    assert values["tubelet_score_request_seconds_count"] == "1.0"


def test_a_source_is_counted_beside() -> None:
    told: list[int] = []

    async def count(source: Source, ended: asyncio.Event) -> None:
        def tell(number: int) -> None:
            told.append(number)
            ended.set()

        async with counted_beside(source, tell):
            await ended.wait()

    asyncio.run(count(Source("numbers", lambda: iter([Item(str(number)) for number in range(7)])), asyncio.Event()))
    assert told == [7]


def test_counting_ends_with_the_scoring() -> None:
    reached = threading.Event()

    def endless() -> Iterator[Item]:
        while True:
            reached.set()
            yield Item("/a.mp4")

    def broken() -> Iterator[Item]:
        yield Item("/a.mp4")
        raise InvalidRequestError("bad_input", "line 2 is broken")

    async def count(source: Source) -> None:
        async with counted_beside(source, lambda number: pytest.fail(f"counted {number}")):
            await asyncio.to_thread(reached.wait)

    asyncio.run(count(Source("numbers", endless)))
    asyncio.run(count(Source("numbers", broken)))
