"""Where a run stands: counts, rates, and the time that is left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tubelet.archive.events import Event, Flow
from tubelet.archive.ledger import Counts
from tubelet.archive.rows import Row
from tubelet.archive.summary import Tally

__all__ = ["State"]

_RATE_OVER_S = 30.0
"""The rate that is told is that of the latest half minute."""


class State:
    """What there is to say, kept up to date; a `tubelet.archive.watching.Watcher` to build on.

    Args:
        clock: seconds, on any clock that does not go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.began_s = clock()
        self.tally = Tally()
        self.before = 0
        self.total: int | None = None
        """Items that are listed, those done before among them; None: nobody has counted."""
        self._in_flight: dict[str, int] = {}
        self._samples: deque[tuple[float, int, int]] = deque([(self.began_s, 0, 0)])

    def began(self, before: Counts) -> None:
        """Takes the start."""
        self.began_s = self._clock()
        self._samples = deque([(self.began_s, 0, 0)])
        self.before = before.done

    def counted(self, total: int) -> None:
        """Takes the number of items."""
        self.total = total

    def row(self, row: Row) -> None:
        """Counts a row."""
        self.tally.add(row)

    def event(self, event: Event) -> None:
        """Follows the requests in flight."""
        if isinstance(event, Flow):
            self._in_flight[event.server] = event.in_flight

    def tick(self) -> None:
        """Takes a sample for the rate."""
        now_s = self._clock()
        self._samples.append((now_s, self.tally.done, self.tally.views))
        while len(self._samples) > 2 and now_s - self._samples[1][0] >= _RATE_OVER_S:
            self._samples.popleft()

    @property
    def in_flight(self) -> int:
        """Requests at all servers."""
        return sum(self._in_flight.values())

    @property
    def rates(self) -> tuple[float, float]:
        """Items and views a second."""
        then_s, done, views = self._samples[0]
        seconds = max(self._clock() - then_s, 1e-3)
        return (self.tally.done - done) / seconds, (self.tally.views - views) / seconds

    @property
    def seconds_left(self) -> float | None:
        """Until all is done, at the present rate; None: nobody knows."""
        if self.total is None or not (rate := self.rates[0]):
            return None
        return max(0, self.total - self.before - self.tally.done) / rate

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        rate, views_rate = self.rates
        left = self.seconds_left
        return {
            "done_now": self.tally.done,
            "done_before": self.before,
            "total": self.total,
            "failed_now": self.tally.failed.total(),
            "in_flight": self.in_flight,
            "per_s": round(rate, 2),
            "views_per_s": round(views_rate, 2),
            "seconds_left": None if left is None else round(left, 1),
        }
