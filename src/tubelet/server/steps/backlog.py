"""What is decoded and not yet encoded, as all processes of a model know it: nobody decodes far ahead of the encoder.

Between the steps of an ensemble Triton 2.51 bounds nothing, or refuses what was decoded in vain. Where the step
`sample` waits instead, its own queue fills: requests there are small, and one too many is refused at once
(docs/adr/0023-overload.md).
"""

from __future__ import annotations

import fcntl
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

__all__ = ["Backlog"]

_STATE = np.dtype([("decoded", "i8"), ("taken", "i8"), ("room", "i8"), ("last_run", "f8")])
"""Units decoded so far, and how many of them the encoder has taken; how many may wait; when the encoder last ended
(`time.monotonic`; infinite while it runs). Each is written and read whole."""

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

    def allow(self, units: int) -> None:
        """Sets how many units may wait."""
        self._state["room"] = units

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A run of the encoder, which has taken all that waits."""
        self._state["taken"] = self._state["decoded"]
        self._state["last_run"] = np.inf
        try:
            yield
        finally:
            self._state["last_run"] = time.monotonic()

    def add(self, units: int) -> None:
        """Counts units that were decoded."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._state["decoded"] += units
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def wait(self, deadline: float) -> None:
        """Returns when more may be decoded.

        Raises:
            DeadlineError: ``deadline_exceeded``, the request's time ended first.
        """
        while self._is_full():
            check_deadline(deadline)
            time.sleep(_LOOK_S)

    def _is_full(self) -> bool:
        state = self._state
        is_working = time.monotonic() - state["last_run"] < _PAUSE_S
        return bool(is_working and 0 < state["room"] <= state["decoded"] - state["taken"])


def _open(model: str) -> int:
    """The file that all processes share, open as long as they live; where no supervisor is, one of each its own."""
    prefix = os.environ.get(PREFIX_VARIABLE)
    if prefix is None:
        return os.memfd_create(model)
    return os.open(SHM / f"{prefix}{model}_backlog", os.O_RDWR | os.O_CREAT, 0o600)
