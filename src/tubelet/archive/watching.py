"""Whoever looks on while an archive is scored: progress and metrics."""

from __future__ import annotations

from typing import Protocol

from tubelet.archive.events import Event
from tubelet.archive.ledger import Counts
from tubelet.archive.rows import Row

__all__ = ["Watcher"]


class Watcher(Protocol):
    """Hears of everything, on the event loop's thread: it must be quick."""

    def began(self, before: Counts) -> None:
        """Scoring begins, after so much was done before."""

    def counted(self, total: int) -> None:
        """So many items are listed, those done before among them; at any time, or never."""

    def row(self, row: Row) -> None:
        """An item is done."""

    def event(self, event: Event) -> None:
        """Something else has happened."""

    def tick(self) -> None:
        """Half a second or so has gone by."""
