"""Items under way, those that wait for others of the same bytes, and the rows that they can end in."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tubelet.archive.items import Identity, Item
from tubelet.archive.rows import Row, Run
from tubelet.clients import Classification
from tubelet.spec.errors import TubeletError

__all__ = ["Contents", "Work", "answer_row", "copied_row", "error_row"]


@dataclass(slots=True, eq=False)
class Work:
    """What is known of an item so far."""

    item: Item
    started_s: float = field(default_factory=time.time)
    content: bytes | None = None
    content_sha256: str | None = None
    size_bytes: int | None = None
    taken_bytes: int = 0
    """Of the memory budget."""
    losses: int = 0
    """Times that its server was lost while it and others were in flight."""
    losses_alone: int = 0
    """The same, while nothing else was."""
    row: Row | None = None
    """What became of it."""
    followers: list[Work] = field(default_factory=list)
    """Items of the same bytes and the same part, which wait for this one's row."""

    @property
    def identity(self) -> Identity:
        """See `Item.identity`."""
        return self.item.identity(self.content_sha256)


class Contents:
    """Which items under way have the same bytes and the same part: one leads, the others wait for its row.

    That is so from when an item was read until its row is the caller's, who knows it from then on.
    """

    def __init__(self) -> None:
        self._leaders: dict[Identity, Work] = {}
        self.num_following = 0
        """Items that wait for another's row."""

    def leader(self, work: Work) -> Work:
        """Who leads a work: itself, if it is the first of its kind."""
        return self._leaders.setdefault(work.identity, work)

    def follow(self, work: Work, leader: Work) -> None:
        """Lets a work wait for the leader's row."""
        leader.followers.append(work)
        self.num_following += 1

    def followers(self, work: Work) -> list[Work]:
        """Those who wait for a work's row, and do so no longer."""
        followers, work.followers = work.followers, []
        self.num_following -= len(followers)
        return followers

    def forget(self, work: Work) -> None:
        """Lets the next of its kind be the first again."""
        if self._leaders.get(work.identity) is work:
            del self._leaders[work.identity]


def answer_row(work: Work, found: Classification, run: Run) -> Row:
    """The row of an item that was classified."""
    report = found.report
    return Row(
        item=work.item,
        content_sha256=work.content_sha256,
        size_bytes=work.size_bytes,
        started_s=work.started_s,
        finished_s=time.time(),
        server_ms=report.milliseconds["total"],
        duration_s=report.duration_s,
        frames_decoded=report.frames_decoded,
        views=report.views,
        labels=found.labels,
        product=found.product,
        logits=found.logits if run.keeps_logits else None,
        warnings=report.warnings,
    )


def error_row(work: Work, error: TubeletError) -> Row:
    """The row of an item that could not be read, or got no answer."""
    return Row(
        item=work.item,
        content_sha256=work.content_sha256,
        size_bytes=work.size_bytes,
        started_s=work.started_s,
        finished_s=time.time(),
        error_code=error.code,
        error_message=error.message,
    )


def copied_row(row: Row, work: Work) -> Row:
    """The row of an item whose bytes and part have one already."""
    return row.copy_for(work.item, started_s=work.started_s, finished_s=time.time())
