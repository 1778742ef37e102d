"""Several calls at a time, their results in the order of the inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["map_ordered"]

T = TypeVar("T")
R = TypeVar("R")


def map_ordered(function: Callable[[T], R], items: Iterable[T], *, concurrency: int) -> Iterator[R]:
    """Applies ``function`` to ``items``, up to ``concurrency`` at a time, and yields the results in order.

    No more than twice ``concurrency`` items are taken ahead of the result that is waited for, so an endless list needs
    no endless memory. What ``function`` raises is raised here, and items not yet begun are dropped.
    """
    waiting: deque[Future[R]] = deque()
    remaining = iter(items)
    executor = ThreadPoolExecutor(max_workers=concurrency)
    try:
        waiting.extend(executor.submit(function, item) for item in islice(remaining, 2 * concurrency))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(executor.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        # Not waiting: an interrupted caller closes its connection next, which ends the calls that are under way.
        executor.shutdown(wait=False, cancel_futures=True)
