"""Where requests wait: who goes first, those that somebody waits for, and how long anybody may wait."""

from __future__ import annotations

from typing import Literal

__all__ = ["DEFAULT_PRIORITY", "PRIORITIES", "QUEUE_SHARE", "Priority"]

Priority = Literal["interactive", "archive"]

PRIORITIES: dict[Priority, int] = {"interactive": 1, "archive": 2}
"""Triton's levels. ``interactive``: somebody waits for the answer; ``archive``: nobody does, as long as it comes."""

DEFAULT_PRIORITY: Priority = "interactive"
"""Of requests that say nothing: who waits need not know of priorities, an archive says that it can wait."""

QUEUE_SHARE = 0.5
"""Of a request's time that it may spend in the server's queue: the rest is for the work, which is not begun in vain
(docs/adr/0023-overload.md)."""
