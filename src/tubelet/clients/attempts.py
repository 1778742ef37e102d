"""Which errors are worth another attempt, after which pause, and until when."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from tubelet.clients.settings import Retries
from tubelet.spec.errors import DeadlineError, OverloadedError, UnavailableError

__all__ = ["Budget", "retry_options"]


class Budget:
    """The time of one call of the library: all its attempts and the pauses between them.

    Args:
        total_s: what the client allows.
        deadline_s: what the caller allows, if it is less.
    """

    def __init__(self, total_s: float, deadline_s: float | None = None) -> None:
        self._ends = time.monotonic() + min(total_s, math.inf if deadline_s is None else deadline_s)

    def left_s(self) -> float:
        """Seconds until its end; negative after it."""
        return self._ends - time.monotonic()

    def share_s(self, *bounds_s: float) -> float:
        """Time for one attempt: the least of the bounds and of what is left.

        Raises:
            DeadlineError: nothing is left.
        """
        share_s = min(self.left_s(), *bounds_s)
        if share_s <= 0:
            raise DeadlineError("deadline_exceeded", "the time of the call is over; allow it more")
        return share_s


def retry_options(retries: Retries, budget: Budget, *, is_closed: Callable[[], bool]) -> dict[str, Any]:
    """How tenacity tries again: after errors that may pass, at random moments, within the budget.

    Only a crowd and a lost server pass by themselves. A video that is refused is refused again, and after a
    deadline the time is over. Asking twice does no harm: a request leaves nothing behind in the server.
    """

    def is_worth_it(error: BaseException) -> bool:
        return isinstance(error, OverloadedError | UnavailableError) and not is_closed()

    has_tried = stop_after_attempt(retries.attempts)

    def is_over(state: RetryCallState) -> bool:
        return has_tried(state) or state.upcoming_sleep >= budget.left_s()

    return {
        "retry": retry_if_exception(is_worth_it),
        "stop": is_over,
        "wait": wait_random_exponential(multiplier=retries.first_pause_s, max=retries.most_pause_s),
        "reraise": True,
    }
