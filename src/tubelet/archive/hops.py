"""`Hops`: calls in threads, several at a time, since to go there and back costs more than a small file does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

__all__ = ["Hops"]

_T = TypeVar("_T")
_Outcome = tuple[Any, Exception | None]

_MOST = 8
"""Calls of one hop; they are made one after another."""
_WAIT_S = 0.001
"""How long a call waits for others to come along."""


class Hops:
    """For the tasks of one event loop.

    Args:
        threads: that make the calls.
    """

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def call(self, function: Callable[[], _T]) -> _T:
        """Calls a function in a thread, whose others may have to wait for it: it should not take long.

        Raises:
            Exception: as ``function``.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[_T] = loop.create_future()
        self._waiting.append((function, result))
        if len(self._waiting) == _MOST:
            self._begin(loop)
        elif self._timer is None:
            self._timer = loop.call_later(_WAIT_S, self._begin, loop)
        return await result

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        calls = [(function, result) for function, result in self._waiting if not result.done()]
        self._waiting.clear()
        if calls:
            functions, results = zip(*calls, strict=True)
            hop = loop.run_in_executor(self._threads, _call_all, functions)
            hop.add_done_callback(partial(_hand_out, results))


def _call_all(functions: Sequence[Callable[[], Any]]) -> list[_Outcome]:
    return [_outcome(function) for function in functions]


def _outcome(function: Callable[[], Any]) -> _Outcome:
    try:
        return function(), None
    except Exception as exc:  # noqa: BLE001  (raised where the call was made)
        return None, exc


def _hand_out(results: Sequence[asyncio.Future[Any]], hop: asyncio.Future[list[_Outcome]]) -> None:
    if hop.cancelled():
        for result in results:
            result.cancel()
        return
    for result, (value, error) in zip(results, hop.result(), strict=True):
        if result.done():
            continue  # who waited for it has gone
        if error is None:
            result.set_result(value)
        else:
            result.set_exception(error)
