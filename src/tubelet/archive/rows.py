"""What became of each item: one row of the output, whether it could be classified or not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tubelet.archive.items import Item
from tubelet.clients import Label
from tubelet.spec.errors import InvalidVideoError

__all__ = ["Row", "Run"]

# Limits but for the decoder's time, and a span that lies outside of the video.
_FINAL_CODES = frozenset(
    (*InvalidVideoError.codes, "too_large", "too_long", "too_many_pixels", "too_many_views", "bad_parameter")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What all rows of one output folder have in common; another run does not go into the same folder."""

    model: str
    protocol: str
    contract_digest: str
    """Of the contract that the servers had when the run began; an answer by another is refused."""
    top: int
    """Labels in each row, at the most."""
    keeps_logits: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One item's answer or error. C classes of all heads together."""

    item: Item
    content_sha256: str | None
    """Of the video's bytes, in hex; None where they could not be read."""
    size_bytes: int | None
    started_s: float
    """When its work began, in seconds since 1970 (UTC)."""
    finished_s: float
    server_ms: float | None = None
    """What the server's steps took; None without an answer, and of a copy."""
    duration_s: float | None = None
    """Of the whole video, as far as its time stamps tell; None without an answer."""
    frames_decoded: int | None = None
    views: int | None = None
    labels: tuple[Label, ...] = ()
    """The most probable classes, best first."""
    product: tuple[Label, ...] = ()
    """The most probable combinations of the heads' classes (Epic-Kitchens: actions), best first."""
    logits: NDArray[np.float32] | None = None
    """``[C]``, where the run keeps them."""
    warnings: tuple[str, ...] = ()
    error_code: str | None = None
    """One of `tubelet.spec.errors.CODES`; None: it was classified."""
    error_message: str | None = None
    copied_from: str | None = None
    """Address of an item of the same bytes and the same part, whose answer this is."""

    @property
    def is_final(self) -> bool:
        """Whether the same bytes and the same part would come out the same again: an answer, or an error of the video.

        Errors of circumstance are not: no server, no time (``decode_timeout`` depends on the machine's load), a file
        that could not be read.
        """
        return self.error_code is None or self.error_code in _FINAL_CODES

    def copy_for(self, item: Item, *, started_s: float, finished_s: float) -> Row:
        """The row of another item of the same bytes and the same part; no server worked on it."""
        return replace(
            self,
            item=item,
            started_s=started_s,
            finished_s=finished_s,
            server_ms=None,
            copied_from=self.copied_from or self.item.uri,
        )
