"""What is to be scored: a video, or a part of one."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass

__all__ = ["Identity", "Item", "as_stream"]

Identity = tuple[str | None, float | None, float | None]
"""Equal for equal bytes and parts."""


@dataclass(frozen=True, slots=True)
class Item:
    """A video by its address, and the part of it that counts."""

    uri: str
    """An absolute path of this machine, or a URL that fsspec opens (``s3://bucket/key``)."""
    start_s: float | None = None
    """Start of the part, in seconds from the first frame; None: the start."""
    end_s: float | None = None
    """End of the part; None: the end of the video."""

    @property
    def key(self) -> bytes:
        """16 bytes that tell items apart: a hash, since archives hold more addresses than fit into memory."""
        text = f"{self.uri}\0{self.start_s}\0{self.end_s}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()

    def identity(self, content_sha256: str | None) -> Identity:
        """What an item has in common with others of the same bytes and the same part."""
        return content_sha256, self.start_s, self.end_s


async def as_stream(items: AsyncIterable[Item] | Iterable[Item]) -> AsyncIterator[Item]:
    """Items one by one, whichever kind of iteration they come by."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
