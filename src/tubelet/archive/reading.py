"""Reads videos in threads, within the memory budget, hashes them there, and waits for storage that is away."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tubelet.archive.addresses import is_url
from tubelet.archive.budget import ByteBudget
from tubelet.archive.events import Event, Stalled
from tubelet.archive.files import Files
from tubelet.archive.hops import Hops
from tubelet.archive.remote import StorageError
from tubelet.archive.work import Work
from tubelet.spec.errors import InvalidRequestError, LimitError

__all__ = ["READERS", "Reader"]

READERS = 16
"""Files that are read at a time: enough for storage that answers in 50 ms to keep up with 300 videos a second."""
_FIRST_PAUSE_S, _MOST_PAUSE_S = 1.0, 15.0
"""Between two looks at storage that is away: twice as long each time, give or take a quarter."""
_SMALL_BYTES = 256 * 1024
"""Files up to here are read by the thread that looks for their size: a second way to a thread would cost as much."""
_MOST_TRIES_BESIDE = 2
"""Times that one video may fail while others of its storage are read; then it is the video that is bad."""


class Reader:
    """Fills works with their videos.

    Args:
        files: opens addresses.
        budget: bytes that may be in memory.
        patience_s: how long to wait while nothing can be read.
        tell: hears when storage is waited for.
    """

    def __init__(self, files: Files, budget: ByteBudget, *, patience_s: float, tell: Callable[[Event], None]) -> None:
        self._files = files
        self._budget = budget
        self._patience_s = patience_s
        self._tell = tell
        self._num_read = self._num_waiting = 0
        self._last_read_s = float("-inf")
        self._is_stalled = False
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._hops = Hops(self._threads)

    async def read(self, work: Work, *, most_bytes: int) -> bytes:
        """Reads a work's video; its bytes are the work's, too, until `drop`.

        Raises:
            InvalidRequestError: ``bad_input``, it cannot be read; or it alone could not for too long.
            LimitError: ``too_large``, it has more than ``most_bytes``; it was not read.
            StorageError: of several videos none could be read for ``patience_s``.
            MachineError: as `Files.read`.
        """
        pause_s, seen = _FIRST_PAUSE_S, self._num_read
        since_s, tries_beside = None, 0
        try:
            while True:
                try:
                    return await self._read_once(work, most_bytes)
                except StorageError as exc:
                    error = exc
                if since_s is None:
                    since_s = time.monotonic()
                    self._num_waiting += 1
                tries_beside += self._num_read > seen
                self._judge(error, since_s=since_s, tries_beside=tries_beside, is_beside=self._num_read > seen)
                seen = self._num_read
                await asyncio.sleep(min(pause_s * random.uniform(0.75, 1.25), self._patience_s))
                pause_s = min(2 * pause_s, _MOST_PAUSE_S)
        finally:
            self._num_waiting -= since_s is not None

    def _judge(self, error: StorageError, *, since_s: float, tries_beside: int, is_beside: bool) -> None:
        """Raises, unless the storage is worth waiting for."""
        is_late = time.monotonic() - max(since_s, self._last_read_s) >= self._patience_s
        if tries_beside >= _MOST_TRIES_BESIDE or (is_late and self._num_waiting == 1):
            raise InvalidRequestError("bad_input", error.message) from error
        if is_late:
            raise StorageError(
                error.code, f"nothing could be read for {self._patience_s:g} s; {error.message}"
            ) from error
        if not (is_beside or self._is_stalled):
            self._is_stalled = True
            self._tell(Stalled(error.message))

    async def _read_once(self, work: Work, most_bytes: int) -> bytes:
        loop, uri = asyncio.get_running_loop(), work.item.uri
        work.taken_bytes = self._budget.take_now(_SMALL_BYTES)
        try:
            look = partial(_look_and_read, self._files, uri, min(work.taken_bytes, most_bytes), most_bytes)
            # Storage that answers after a while is to be asked for many videos at once.
            size, found = await (loop.run_in_executor(self._threads, look) if is_url(uri) else self._hops.call(look))
            work.size_bytes = size
            self._keep(work, 0 if found is None else min(work.taken_bytes, len(found[0])))
            if found is None:
                if size > most_bytes:
                    raise LimitError(
                        "too_large",
                        f"the server takes videos of up to {most_bytes} bytes (max_video_bytes), this one has {size}",
                    )
                work.taken_bytes = await self._budget.take(size)
                found = await loop.run_in_executor(self._threads, _read_and_hash, self._files, uri, most_bytes)
        except BaseException:
            self.drop(work)
            raise
        work.content, work.content_sha256 = found
        work.size_bytes = len(work.content)
        self._num_read, self._last_read_s, self._is_stalled = self._num_read + 1, time.monotonic(), False
        return work.content

    def drop(self, work: Work) -> None:
        """Gives a work's bytes back."""
        work.content = None
        self._keep(work, 0)

    def _keep(self, work: Work, size: int) -> None:
        """Gives back what was taken for a work, but for ``size``."""
        surplus, work.taken_bytes = work.taken_bytes - size, size
        if surplus:
            self._budget.give(surplus)

    def close(self) -> None:
        """Waits for nobody: a thread that hangs in a read ends with it."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_and_read(files: Files, uri: str, at_once: int, most_bytes: int) -> tuple[int, tuple[bytes, str] | None]:
    """The size, and the bytes and their hash where it is not more than ``at_once``."""
    size = files.size(uri)
    return size, _read_and_hash(files, uri, most_bytes) if size <= at_once else None


def _read_and_hash(files: Files, uri: str, most_bytes: int) -> tuple[bytes, str]:
    content = files.read(uri, most_bytes=most_bytes)
    return content, hashlib.sha256(content).hexdigest()
