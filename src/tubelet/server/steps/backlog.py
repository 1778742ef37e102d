"""What is decoded and not yet encoded, as all processes of a model know it: nobody decodes far ahead of the encoder.

Between the steps of an ensemble Triton 2.51 bounds nothing, or refuses what was decoded in vain. Where the step
`sample` waits instead, its own queue fills: requests there are small, and one too many is refused at once
(docs/adr/0023-overload.md).
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tubelet.server.shm import PREFIX_VARIABLE, SHM
from tubelet.server.steps.base import check_deadline
from tubelet.spec.errors import OverloadedError

__all__ = ["Backlog"]

_STATE = np.dtype(
    [("decoded", "i8"), ("taken", "i8"), ("room", "i8"), ("units_per_s", "f8"), ("last_run", "f8"), ("run_ends", "f8")]
)
"""Units decoded so far, and how many of them the encoder has taken; how many may wait; what the encoder does in a
second (0: not known yet); when it last ended (`time.monotonic`; infinite while it runs), and when its run may be
expected to. Each is written and read whole."""

_LOOK_S = 0.002
"""Between two looks while a process waits: little against a run of the encoder, and no load."""
_PAUSE_S = 0.05
"""An encoder that has work begins again sooner than that."""


class Backlog:
    """The units of one model that wait for its encoder.

    The encoder takes all that waits at once, so what waits was decoded since it last began. What gets lost on the way,
    as callers go and steps fail, is forgotten when it next begins; and while it has nothing to do, nobody is kept
    waiting. An encoder that is not a step of ours allows any number.

    Args:
        model: public name.
    """

    def __init__(self, model: str) -> None:
        self._file = _open(model)
        os.ftruncate(self._file, _STATE.itemsize)
        self._state: NDArray[Any] = np.ndarray((), _STATE, mmap.mmap(self._file, _STATE.itemsize))

    def allow(self, units: int, *, units_per_s: float) -> None:
        """Sets how many units may wait, and says how fast the encoder is, as far as it knows."""
        self._state["room"] = units
        self._state["units_per_s"] = units_per_s

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A run of the encoder, which has taken all that waits."""
        state, decoded = self._state, int(self._state["decoded"])
        state["run_ends"] = time.monotonic() + self._seconds(decoded - int(state["taken"]))
        state["taken"] = decoded
        state["last_run"] = np.inf
        try:
            yield
        finally:
            state["run_ends"] = state["last_run"] = time.monotonic()

    def add(self, units: int) -> None:
        """Counts units that were decoded."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._state["decoded"] += units
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def wait(self, deadline: float, *, units: int = 0, decode_s: float = 0.0, until: float = math.inf) -> None:
        """Returns when more may be decoded; refuses what would be decoded in vain because others are before it.

        Who would be late even alone is tried: less load would not help it, and this may be wrong.

        Args:
            deadline: when the request's time ends, as `check_deadline` has it.
            units: that the request may have.
            decode_s: how long it may take until they can be encoded.
            until: when they should be.

        Raises:
            DeadlineError: ``deadline_exceeded``, the request's time ended first.
            OverloadedError: ``overloaded``, they would be encoded later than ``until``.
        """
        while self._is_working():
            now, ahead_s, encode_s = time.monotonic(), self._ahead_s(), self._seconds(units)
            too_late_s = now + max(decode_s, ahead_s) + encode_s - until
            if ahead_s and too_late_s > 0 and now + decode_s + encode_s <= deadline:
                raise OverloadedError(
                    "overloaded",
                    f"with the work that is before it this request would be answered {too_late_s:.1f} s too late; "
                    "try again later, or allow it more time",
                )
            if not self._is_full():
                return
            check_deadline(deadline)
            time.sleep(_LOOK_S)

    def _is_working(self) -> bool:
        return bool(time.monotonic() - self._state["last_run"] < _PAUSE_S)

    def _is_full(self) -> bool:
        return bool(0 < self._state["room"] <= self._waiting)

    @property
    def _waiting(self) -> int:
        return int(self._state["decoded"] - self._state["taken"])

    def _ahead_s(self) -> float:
        """Until the encoder has done what it runs, what waits for it, and what will have come beside it by then.

        A run answers all of its requests when it ends, and takes all that was decoded while the one before it ran: as
        much, where there is too much to do, as the encoder does meanwhile.
        """
        run_left_s = max(0.0, float(self._state["run_ends"]) - time.monotonic())
        return 2 * run_left_s + self._seconds(self._waiting)

    def _seconds(self, units: int) -> float:
        """That the encoder takes for them; 0 where nobody knows."""
        units_per_s = float(self._state["units_per_s"])
        return units / units_per_s if units_per_s else 0.0


def _open(model: str) -> int:
    """The file that all processes share, open as long as they live; where no supervisor is, one of each its own."""
    prefix = os.environ.get(PREFIX_VARIABLE)
    if prefix is None:
        return os.memfd_create(model)
    return os.open(SHM / f"{prefix}{model}_backlog", os.O_RDWR | os.O_CREAT, 0o600)
