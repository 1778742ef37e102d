"""Counts a source beside the scoring, where its length is not known: for the time that is left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from tubelet.archive.sources import Source
from tubelet.spec.errors import TubeletError

__all__ = ["counted_beside"]


@asynccontextmanager
async def counted_beside(source: Source, tell: Callable[[int], None]) -> AsyncIterator[None]:
    """Reads through a source in a thread while the block runs, and tells how many items it has.

    Args:
        source: is read once more for it.
        tell: is called once, on the event loop's thread, unless the block is over before.
    """
    is_over = threading.Event()

    async def count() -> None:
        # What is wrong with the source is said by whoever scores it.
        with suppress(TubeletError):
            number = await asyncio.to_thread(_count, source, is_over)
            if number is not None:
                tell(number)

    counting = asyncio.create_task(count())
    try:
        yield
    finally:
        is_over.set()
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)


def _count(source: Source, is_over: threading.Event) -> int | None:
    number = 0
    for _ in source.items():
        if is_over.is_set():
            return None
        number += 1
    return number
