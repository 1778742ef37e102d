"""What is to be scored: a video, or a part of one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

__all__ = ["Item"]


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
