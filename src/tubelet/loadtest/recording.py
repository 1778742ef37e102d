"""Notes down what became of each request, with as little work as possible while the load runs."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, fields, replace

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from tubelet.loadtest.histograms import MOST_US
from tubelet.loadtest.sending import Reply

__all__ = ["ANSWERED", "CUT_OFF", "NOT_SENT", "Recorder", "Records"]

ANSWERED, CUT_OFF = 0, -1
"""Outcomes; errors have numbers from 1 on."""

NOT_SENT = "not_sent"
"""The code of requests that were due when too many were in flight."""

_LIVE_DIGITS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """All requests, those of the warm-up included; arrays ``[R]``, a row for each in the order in which they ended."""

    kind: NDArray[np.uint16]
    """Number in the scenario's order."""
    due_s: NDArray[np.float64]
    """Since the beginning of the measured time; negative: in the warm-up."""
    ended_s: NDArray[np.float64]
    lag_s: NDArray[np.float32]
    """From due until sent; nan: sent by a closed loop, or never."""
    outcome: NDArray[np.int16]
    server_ms: NDArray[np.float32]
    """Here and below: 0 without an answer."""
    views: NDArray[np.uint32]
    units: NDArray[np.uint32]
    num_bytes: NDArray[np.uint32]
    codes: tuple[str, ...]
    """The error of outcome 1, of outcome 2, and so on."""
    protocols: tuple[frozenset[str], ...]
    """Of each kind's answers; no more than two."""

    @property
    def latency_us(self) -> NDArray[np.float64]:
        """From due until the end."""
        return (self.ended_s - self.due_s) * 1e6

    def __getitem__(self, rows: NDArray[np.bool_]) -> Records:
        """Those rows alone."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _COLUMNS})


_COLUMNS = tuple(field.name for field in fields(Records) if field.name not in ("codes", "protocols"))


class Recorder:
    """Keeps a row for each request. Times are seconds since the beginning of the measured time.

    Args:
        num_kinds: kinds of requests, which have numbers from 0 on.
    """

    def __init__(self, num_kinds: int) -> None:
        self._kind, self._outcome = array("H"), array("h")
        self._due, self._ended = array("d"), array("d")
        self._lag, self._server = array("f"), array("f")
        self._views, self._units, self._bytes = array("I"), array("I"), array("I")
        self._codes: dict[str, int] = {}
        self._protocols: tuple[set[str], ...] = tuple(set() for _ in range(num_kinds))
        self.num_answered = 0
        """Of those that were due in the measured time, here and below."""
        self.num_failed = 0
        self.latency = HdrHistogram(1, MOST_US, _LIVE_DIGITS)
        """So far, coarser than in the end: quick to ask."""

    def answered(self, kind: int, reply: Reply, *, due_s: float, ended_s: float, lag_s: float = math.nan) -> None:
        """An answer came."""
        self._add(kind, ANSWERED, due_s, ended_s, lag_s, reply.server_ms, reply.views, reply.units, reply.num_bytes)
        protocols = self._protocols[kind]
        if len(protocols) < 2:
            protocols.add(reply.protocol)
        if due_s >= 0:
            self.num_answered += 1
            self.latency.record_value(min(max(1, int((ended_s - due_s) * 1e6)), MOST_US))

    def failed(self, kind: int, code: str, *, due_s: float, ended_s: float, lag_s: float = math.nan) -> None:
        """It ended in the error of this code."""
        self._add(kind, self._codes.setdefault(code, len(self._codes) + 1), due_s, ended_s, lag_s, 0.0, 0, 0, 0)
        if due_s >= 0:
            self.num_failed += 1

    def cut_off(self, kind: int, *, due_s: float, ended_s: float) -> None:
        """The test ended before it did."""
        self._add(kind, CUT_OFF, due_s, ended_s, math.nan, 0.0, 0, 0, 0)

    def records(self) -> Records:
        """All of it so far."""
        return Records(
            kind=np.array(self._kind, dtype=np.uint16),
            due_s=np.array(self._due),
            ended_s=np.array(self._ended),
            lag_s=np.array(self._lag, dtype=np.float32),
            outcome=np.array(self._outcome, dtype=np.int16),
            server_ms=np.array(self._server, dtype=np.float32),
            views=np.array(self._views, dtype=np.uint32),
            units=np.array(self._units, dtype=np.uint32),
            num_bytes=np.array(self._bytes, dtype=np.uint32),
            codes=tuple(self._codes),
            protocols=tuple(frozenset(protocols) for protocols in self._protocols),
        )

    def _add(
        self,
        kind: int,
        outcome: int,
        due_s: float,
        ended_s: float,
        lag_s: float,
        server_ms: float,
        views: int,
        units: int,
        num_bytes: int,
    ) -> None:
        self._kind.append(kind)
        self._outcome.append(outcome)
        self._due.append(due_s)
        self._ended.append(ended_s)
        self._lag.append(lag_s)
        self._server.append(server_ms)
        self._views.append(views)
        self._units.append(units)
        self._bytes.append(num_bytes)
