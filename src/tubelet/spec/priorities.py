"""Who goes first where requests wait: those that somebody waits for."""

from __future__ import annotations

from typing import Literal

__all__ = ["DEFAULT_PRIORITY", "PRIORITIES", "Priority"]

Priority = Literal["interactive", "archive"]

PRIORITIES: dict[Priority, int] = {"interactive": 1, "archive": 2}
"""Triton's levels. ``interactive``: somebody waits for the answer; ``archive``: nobody does, as long as it comes."""

DEFAULT_PRIORITY: Priority = "interactive"
"""Of requests that say nothing: who waits need not know of priorities, an archive says that it can wait."""
