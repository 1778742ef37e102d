"""Asks every model of a running server, again and again, whether it is well."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from tubelet.server.health import Patient, Probe
from tubelet.spec.repository import ServedModel

__all__ = ["Rounds"]

CANARY_INTERVAL_S, MAX_CANARY_INTERVAL_S = 5.0, 60.0
CANARY_SHARE = 0.05
"""Part of the time that goes into asking, at most."""


class Rounds:
    """Rounds among the models, in a thread of their own.

    Args:
        probe: reaches the server.
        models: who is asked.
        serving: the server that is ready at this moment, or None.
        tell: told, from that thread, of the server that was ready when a model was asked, and of the model, where it
            is ill.
    """

    def __init__(
        self,
        probe: Probe,
        models: Sequence[ServedModel],
        *,
        serving: Callable[[], object | None],
        tell: Callable[[object, ServedModel], None],
    ) -> None:
        self._patients = [Patient(probe, model) for model in models]
        self._serving = serving
        self._tell = tell

    def start(self, stopping: threading.Event) -> None:
        """Begins, and goes on until ``stopping`` is set."""
        threading.Thread(target=self._go, args=(stopping,), daemon=True).start()

    def _go(self, stopping: threading.Event) -> None:
        pause_s = CANARY_INTERVAL_S
        while not stopping.wait(pause_s):
            began = time.monotonic()
            for patient in self._patients:
                asked = self._serving()
                if patient.is_ill() and asked is not None:
                    self._tell(asked, patient.model)
            # A large model computes for seconds, and is there for others.
            round_s = time.monotonic() - began
            pause_s = min(max(CANARY_INTERVAL_S, round_s / CANARY_SHARE), MAX_CANARY_INTERVAL_S)
