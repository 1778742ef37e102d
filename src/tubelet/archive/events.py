"""What a caller of `tubelet.archive.scorer.score_items` may hear of, besides the rows: for progress and for metrics."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Answered", "Away", "Back", "Event", "Flow", "SetAside", "Stalled"]


@dataclass(frozen=True, slots=True)
class Flow:
    """How full a server and the memory are; after each change."""

    server: str
    in_flight: int
    limit: int
    """Requests that may be in flight at this server."""
    waiting_bytes: int
    """Of videos that were read and have no answer yet, for all servers together."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A request has ended, well or not; an item may need several."""

    server: str
    seconds: float
    outcome: str
    """``ok``, or the error's code."""


@dataclass(frozen=True, slots=True)
class Away:
    """A server does not answer any more; it is looked for."""

    server: str
    reason: str


@dataclass(frozen=True, slots=True)
class Back:
    """A server answers, for the first time or again."""

    server: str


@dataclass(frozen=True, slots=True)
class SetAside:
    """An item is suspected of what happened to its server, or has no time beside others; it is asked alone later."""

    uri: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stalled:
    """The storage of the items does not answer; it is waited for. Told once, until something can be read again."""

    reason: str


Event = Flow | Answered | Away | Back | SetAside | Stalled
