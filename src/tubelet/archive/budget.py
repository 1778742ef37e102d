"""How many bytes may be in memory at a time: taken before a file is read, given back after its answer."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["ByteBudget"]


class ByteBudget:
    """First come, first served; for the tasks of one event loop.

    Args:
        total: bytes that may be taken at a time. A request for more gets all of them, and so is served alone.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.used = 0
        """Bytes that are taken now."""

    async def take(self, size: int) -> int:
        """Waits until ``size`` bytes are free, and takes them.

        Returns:
            What has to be given back: ``size``, or the whole budget where that is less.
        """
        wanted = min(size, self._total)
        if not self._waiting and self.used + wanted <= self._total:
            self.used += wanted
            return wanted
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._serve()
            else:  # its turn came in the very moment in which it was cancelled
                self.give(wanted)
            raise
        return wanted

    def take_now(self, size: int) -> int:
        """Takes ``size`` bytes if they are free and nobody waits, else none.

        Returns:
            What has to be given back: ``size`` or 0.
        """
        if self._waiting or self.used + size > self._total:
            return 0
        self.used += size
        return size

    def give(self, size: int) -> None:
        """Gives bytes back."""
        self.used -= size
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.cancelled():
                if self.used + wanted > self._total:
                    return
                self.used += wanted
                turn.set_result(None)
            self._waiting.popleft()
