"""What follows from a request's error: the policy of retries and suspects, without any doing."""

from __future__ import annotations

from typing import Literal

from tubelet.archive.items import Item
from tubelet.clients.wire import is_refused_caller
from tubelet.spec.errors import (
    ContractError,
    DeadlineError,
    InternalError,
    InvalidRequestError,
    MachineError,
    OverloadedError,
    TubeletError,
    UnavailableError,
)

__all__ = ["MOST_LOSSES", "Verdict", "is_loss", "verdict_on"]

MOST_LOSSES = 2
"""Times that a server may be lost under an item before it is a suspect, and then alone before it is a row."""

Verdict = Literal["row", "again", "alone", "refused", "end"]
"""It becomes a row; it is asked again; it is asked alone later; it is asked again when there is room; the run ends."""


def is_loss(error: TubeletError) -> bool:
    """Whether a request was lost, rather than answered: nobody knows whether its video was the reason."""
    return isinstance(error, UnavailableError | InternalError) or error.code == "cancelled"


def verdict_on(error: TubeletError, item: Item, *, losses: int, losses_alone: int, was_alone: bool) -> Verdict:
    """Decides what becomes of an item after an error.

    Args:
        error: of its latest request.
        item: what was asked for.
        losses: times that its request was lost beside others, this one included.
        losses_alone: times that it was lost alone, this one included.
        was_alone: whether nothing else was in flight at that server this time.
    """
    match error:
        case ContractError() | MachineError():
            return "end"
        case OverloadedError():
            return "refused"
        case _ if is_loss(error):
            if was_alone:
                return "row" if losses_alone >= MOST_LOSSES else "alone"
            return "alone" if losses >= MOST_LOSSES else "again"
        case DeadlineError():
            return "row" if was_alone else "alone"
        case InvalidRequestError() if is_refused_caller(error):
            return "end"
        case InvalidRequestError(code="bad_parameter") if item.start_s is None and item.end_s is None:
            return "end"  # nothing of it is the item's: the server refuses the run itself
        case _:
            return "row"
