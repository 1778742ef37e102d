"""Calls go to threads together, and each comes back with what is its own."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tubelet.archive.hops import Hops


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def half(number: int) -> int:
    if number % 2:
        raise ValueError(str(number))
    return number // 2


def test_each_call_has_its_own_outcome(threads: ThreadPoolExecutor) -> None:
    async def run() -> list[int | BaseException]:
        hops = Hops(threads)
        return await asyncio.gather(*(hops.call(partial(half, i)) for i in range(20)), return_exceptions=True)

    found = asyncio.run(run())
    assert found[::2] == list(range(10))
    assert [str(error) for error in found[1::2]] == [str(number) for number in range(1, 20, 2)]


def test_calls_of_one_moment_share_a_hop() -> None:
    counted: list[int] = []

    class Counting(ThreadPoolExecutor):
        def submit(self, function, calls, /):  # type: ignore[override]
            counted.append(len(calls))
            return super().submit(function, calls)

    async def run() -> set[int]:
        with Counting(4) as pool:
            hops = Hops(pool)
            alone = await hops.call(threading.get_ident)
            return {alone, *await asyncio.gather(*(hops.call(threading.get_ident) for _ in range(19)))}

    assert threading.get_ident() not in asyncio.run(run())
    assert counted == [1, 8, 8, 3]


def test_who_has_gone_takes_nobody_along(threads: ThreadPoolExecutor) -> None:
    async def run() -> list[str]:
        hops, called, gate = Hops(threads), list[str](), threading.Event()

        def note(name: str) -> str:
            gate.wait(60)
            called.append(name)
            return name

        before = asyncio.create_task(hops.call(partial(note, "before")))
        other = asyncio.create_task(hops.call(partial(note, "other")))
        await asyncio.sleep(0)
        before.cancel()  # it has not left yet
        await asyncio.sleep(0.1)
        under_way = asyncio.create_task(hops.call(partial(note, "under way")))
        last = asyncio.create_task(hops.call(partial(note, "last")))
        await asyncio.sleep(0.1)
        under_way.cancel()
        gate.set()
        assert (await other, await last) == ("other", "last")
        assert before.cancelled()
        assert under_way.cancelled()
        return sorted(called)

    assert asyncio.run(run()) == ["last", "other", "under way"]


def test_threads_that_are_closed_cancel_what_waits_for_them() -> None:
    async def run() -> None:
        gate, pool = threading.Event(), ThreadPoolExecutor(1)
        hops = Hops(pool)
        busy = pool.submit(gate.wait, 60)
        waiting = asyncio.create_task(hops.call(threading.get_ident))
        await asyncio.sleep(0.1)
        pool.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.set()
        busy.result()

    asyncio.run(run())
