"""What became of each item: one row of the output, whether it could be classified or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tubelet.archive.items import Item
from tubelet.clients import Label

__all__ = ["Row", "Run"]


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
    """What the server's steps took; None without an answer."""
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
