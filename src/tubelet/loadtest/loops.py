"""When the next request goes out: by the clock (open loop), or when the one before is answered (closed loop)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from tubelet.loadtest.scenario import RequestKind

__all__ = ["Send", "ask_again_and_again", "send_when_due", "sleep_until"]

Send = Callable[[RequestKind, float], "asyncio.Task[None] | None"]
"""Begins a request that is due at a moment of the event loop's clock; returns None where none is begun any more."""

_AT_ONCE = 16
"""Requests that are overdue go out without a pause, but for a look at the answers after so many."""


async def send_when_due(dues: Iterable[tuple[float, RequestKind]], send: Send, *, ends: float) -> None:
    """Sends each request at its moment, whatever became of those before; what is overdue at once, and nothing never.

    Args:
        dues: moments of the event loop's clock, which do not go back, and what is due then.
        send: begins a request and does not wait for it.
        ends: when to stop; returns earlier only where ``dues`` do.
    """
    clock = asyncio.get_running_loop().time
    for number, (due, kind) in enumerate(dues, 1):
        if due >= ends:
            await sleep_until(ends)
            return
        if due > clock():
            await sleep_until(due)
        elif number % _AT_ONCE == 0:
            await asyncio.sleep(0)
        send(kind, due)


async def ask_again_and_again(kinds: Iterator[RequestKind], send: Send, *, pause_s: float, ends: float) -> None:
    """One caller: sends a request, waits for its answer and a pause, and sends the next.

    Args:
        kinds: what to ask for, without end; callers may share it.
        send: begins a request.
        pause_s: between an answer and the next request.
        ends: when to stop; a request that is under way then is not waited for.
    """
    clock = asyncio.get_running_loop().time
    while (now := clock()) < ends:
        request = send(next(kinds), now)
        if request is None:
            return
        # Unlike an await of the request itself, this one may be cancelled without it.
        await asyncio.wait((request,), timeout=ends - now)
        if not request.done():
            return
        if pause_s:
            await sleep_until(min(clock() + pause_s, ends))


async def sleep_until(moment: float) -> None:
    """Returns at that moment of the event loop's clock, never before."""
    clock = asyncio.get_running_loop().time
    while (left_s := moment - clock()) > 0:
        await asyncio.sleep(left_s)
