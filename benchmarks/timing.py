"""Takes times in turns, so that a noisy machine is noisy for everybody."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["in_turns", "spread"]


def in_turns(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, before_round: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Calls everyone once a round, each time another one first; seconds of each, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for i in range(rounds):
        before_round()
        for name in names[i % len(names) :] + names[: i % len(names)]:
            began = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def spread(values: Sequence[float], *, digits: int = 4) -> dict[str, Any]:
    """Median, and what shows a noisy neighbour: the least, the most and how many."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "count": len(values),
    }
