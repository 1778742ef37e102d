"""Reads videos in threads, within the memory budget, and hashes them there."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor

from tubelet.archive.budget import ByteBudget
from tubelet.archive.files import Files
from tubelet.archive.work import Work
from tubelet.spec.errors import LimitError

__all__ = ["READERS", "Reader"]

READERS = 16
"""Files that are read at a time: enough for storage that answers in 50 ms to keep up with 300 videos a second."""


class Reader:
    """Fills works with their videos.

    Args:
        files: opens addresses.
        budget: bytes that may be in memory.
    """

    def __init__(self, files: Files, budget: ByteBudget) -> None:
        self._files = files
        self._budget = budget
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="reader")

    async def read(self, work: Work, *, most_bytes: int) -> bytes:
        """Reads a work's video; its bytes are the work's, too, until `drop`.

        Raises:
            InvalidRequestError: ``bad_input``, it cannot be read.
            LimitError: ``too_large``, it has more than ``most_bytes``; it was not read.
        """
        loop, uri = asyncio.get_running_loop(), work.item.uri
        work.size_bytes = size = await loop.run_in_executor(self._threads, self._files.size, uri)
        if size > most_bytes:
            raise LimitError(
                "too_large",
                f"the server takes videos of up to {most_bytes} bytes (max_video_bytes), this one has {size}",
            )
        work.taken_bytes = await self._budget.take(size)
        try:
            content, work.content_sha256 = await loop.run_in_executor(
                self._threads, _read_and_hash, self._files, uri, most_bytes
            )
        except BaseException:
            self.drop(work)
            raise
        work.content, work.size_bytes = content, len(content)
        return content

    def drop(self, work: Work) -> None:
        """Gives a work's bytes back."""
        work.content = None
        if work.taken_bytes:
            self._budget.give(work.taken_bytes)
            work.taken_bytes = 0

    def close(self) -> None:
        """Waits for nobody: a thread that hangs in a read ends with it."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _read_and_hash(files: Files, uri: str, most_bytes: int) -> tuple[bytes, str]:
    content = files.read(uri, most_bytes=most_bytes)
    return content, hashlib.sha256(content).hexdigest()
