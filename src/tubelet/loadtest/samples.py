"""Samples of a test of any length in a bounded amount of memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Generic, TypeVar

__all__ = ["MOST_SAMPLES", "Samples"]

MOST_SAMPLES = 2048
"""Sampled once a second: as they came for half an hour, then by two, and by eight after four hours."""

T = TypeVar("T")


class Samples(Generic[T]):
    """Samples in the order of time, which are merged with their neighbours when they become too many.

    Args:
        merge: makes one sample of two that follow each other.
        most: how many there are at most, an even number.
    """

    def __init__(self, merge: Callable[[T, T], T], *, most: int = MOST_SAMPLES) -> None:
        self._merge = merge
        self._most = most
        self._merged: list[T] = []
        self._open: list[T] = []
        self._stride = 1

    def add(self, sample: T) -> None:
        """Takes the next one."""
        self._open.append(sample)
        if len(self._open) < self._stride:
            return
        self._merged.append(reduce(self._merge, self._open))
        self._open.clear()
        if len(self._merged) == self._most:
            pairs = zip(self._merged[::2], self._merged[1::2], strict=True)
            self._merged = [self._merge(first, second) for first, second in pairs]
            self._stride *= 2

    @property
    def all(self) -> list[T]:
        """What there is, the newest included."""
        return [*self._merged, reduce(self._merge, self._open)] if self._open else list(self._merged)
