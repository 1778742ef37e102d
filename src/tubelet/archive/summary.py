"""What came of a run, in figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tubelet.archive.rows import Row

__all__ = ["Summary", "Tally"]


@dataclass(slots=True)
class Tally:
    """Counts rows as they come."""

    done: int = 0
    copied: int = 0
    views: int = 0
    size_bytes: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Rows with an error, by its code."""

    def add(self, row: Row) -> None:
        """Counts a row."""
        self.done += 1
        self.size_bytes += row.size_bytes or 0
        if row.error_code is not None:
            self.failed[row.error_code] += 1
        if row.copied_from is not None:
            self.copied += 1
        else:
            self.views += row.views or 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Of one call of ``tubelet score``."""

    folder: Path
    tally: Tally
    """Of what was done now."""
    before: int
    """Items that were done when it began."""
    done: int
    """Items that are done, over all runs into this folder."""
    failed: int
    """Of those, with an error."""
    parts: int
    """Files that hold them."""
    seconds: float
    is_complete: bool
    """Whether every item has a row; it was stopped otherwise."""

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.tally.done / self.seconds if self.seconds else 0.0

    @property
    def mib_rate(self) -> float:
        """MiB a second."""
        return self.tally.size_bytes / 2**20 / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "out": str(self.folder),
            "is_complete": self.is_complete,
            "done_now": self.tally.done,
            "copied_now": self.tally.copied,
            "failed_now": dict(sorted(self.tally.failed.items())),
            "views_now": self.tally.views,
            "bytes_now": self.tally.size_bytes,
            "done_before": self.before,
            "done": self.done,
            "failed": self.failed,
            "parts": self.parts,
            "seconds": round(self.seconds, 3),
            "per_s": round(self.rate, 2),
            "mib_per_s": round(self.mib_rate, 3),
        }
