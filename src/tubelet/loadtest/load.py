"""The requests of a load that are under way: begun, counted, noted down when they end, cut off when the test does."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from tubelet.loadtest.recording import NOT_SENT, Recorder
from tubelet.loadtest.scenario import RequestKind
from tubelet.loadtest.sending import Reply
from tubelet.spec.errors import TubeletError

__all__ = ["Asks", "Load"]


class Asks(Protocol):
    """What sends a request, such as `tubelet.loadtest.sending.Sender`."""

    async def send(self, kind_name: str, index: int) -> Reply:
        """Sends the request of a kind with the video of that number; raises `TubeletError`."""


class Load:
    """What was asked, and what became of it. Moments are of the running event loop's clock.

    Args:
        sender: sends each request.
        kinds: the scenario's, in its order.
        group: where the requests' tasks belong; an error that is no `TubeletError` ends it.
        measured_from: when the measured time begins.
        most_requests: after so many that were due in the measured time no other is begun.
        most_in_flight: an open loop's request beyond it fails with `NOT_SENT`.
        on_full: called when there were as many as there may be.
    """

    def __init__(
        self,
        sender: Asks,
        kinds: Sequence[RequestKind],
        *,
        group: asyncio.TaskGroup,
        measured_from: float,
        most_requests: int,
        most_in_flight: int,
        on_full: Callable[[], None],
    ) -> None:
        self.recorder = Recorder(len(kinds))
        self.num_due = 0
        """In the measured time."""
        self.is_over = False
        self._sender = sender
        self._numbers = {kind.name: number for number, kind in enumerate(kinds)}
        self._group = group
        self._measured_from = measured_from
        self._most_requests, self._most_in_flight = most_requests, most_in_flight
        self._on_full = on_full
        self._clock = asyncio.get_running_loop().time
        self._turns: Counter[int] = Counter()
        self._under_way: dict[asyncio.Task[None], tuple[int, float]] = {}
        self._is_idle = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Requests that have no answer yet."""
        return len(self._under_way)

    def send_open(self, kind: RequestKind, due: float) -> asyncio.Task[None] | None:
        """Begins a request of an open loop; its latency counts from ``due``, whenever that was."""
        if not self._is_wanted(due):
            return None
        if len(self._under_way) >= self._most_in_flight:
            due_s = due - self._measured_from
            ended_s = self._clock() - self._measured_from
            self.recorder.failed(self._numbers[kind.name], NOT_SENT, due_s=due_s, ended_s=ended_s)
            return None
        return self._begin(kind, due, has_lag=True)

    def send_closed(self, kind: RequestKind, now: float) -> asyncio.Task[None] | None:
        """Begins a caller's request."""
        return self._begin(kind, now, has_lag=False) if self._is_wanted(now) else None

    def end(self) -> None:
        """Begins no other request."""
        self.is_over = True
        self._look_whether_idle()

    def cut_off(self) -> None:
        """Ends everything at once."""
        ended_s = self._clock() - self._measured_from
        for task, (number, due_s) in self._under_way.items():
            self.recorder.cut_off(number, due_s=due_s, ended_s=ended_s)
            task.cancel()
        self._under_way.clear()
        self.end()

    async def drained(self) -> None:
        """Waits for the answers that are still to come, once the load has ended."""
        await self._is_idle.wait()

    def _is_wanted(self, due: float) -> bool:
        if self.is_over or self.num_due >= self._most_requests:
            return False
        if due >= self._measured_from:
            self.num_due += 1
            if self.num_due == self._most_requests:
                # Not now: this one is still to be begun.
                asyncio.get_running_loop().call_soon(self._on_full)
        return True

    def _begin(self, kind: RequestKind, due: float, *, has_lag: bool) -> asyncio.Task[None]:
        number = self._numbers[kind.name]
        turn = self._turns[number]
        self._turns[number] = turn + 1
        due_s = due - self._measured_from
        task = self._group.create_task(self._ask(kind.name, number, turn, due_s, has_lag))
        self._under_way[task] = (number, due_s)
        return task

    async def _ask(self, name: str, number: int, turn: int, due_s: float, has_lag: bool) -> None:
        lag_s = self._clock() - self._measured_from - due_s if has_lag else math.nan
        try:
            reply = await self._sender.send(name, turn)
        except TubeletError as exc:
            ended_s = self._clock() - self._measured_from
            self.recorder.failed(number, exc.code, due_s=due_s, ended_s=ended_s, lag_s=lag_s)
        else:
            ended_s = (self._clock() if reply.at_s is None else reply.at_s) - self._measured_from
            self.recorder.answered(number, reply, due_s=due_s, ended_s=ended_s, lag_s=lag_s)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (a task of `_begin`)
        del self._under_way[task]
        self._look_whether_idle()

    def _look_whether_idle(self) -> None:
        if self.is_over and not self._under_way:
            self._is_idle.set()
