"""Which kind of request comes next in a stream."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from random import Random

from tubelet.loadtest.scenario import RequestKind, Stream

__all__ = ["kinds_at_random"]

_AT_ONCE = 256
"""Drawn together: one by one costs several times as much."""


def kinds_at_random(stream: Stream, random: Random) -> Iterator[RequestKind]:
    """The kinds of a stream in a random order without end, each as often as its weight says.

    An equally seeded ``random`` gives the same order again.

    Args:
        stream: has one kind at least.
        random: for this purpose alone: many kinds are drawn at once.
    """
    weights = list(accumulate(kind.weight for kind in stream.requests))
    while True:
        yield from random.choices(stream.requests, cum_weights=weights, k=_AT_ONCE)
