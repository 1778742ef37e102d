import asyncio

import pytest

from tubelet.archive.budget import ByteBudget


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_bytes_are_waited_for_in_the_order_of_asking() -> None:
    async def run() -> None:
        budget, order = ByteBudget(10), []

        async def take(size: int) -> None:
            await budget.take(size)
            order.append(size)

        assert await budget.take(6) == 6
        tasks = [asyncio.create_task(take(size)) for size in (5, 1, 2)]
        await settle()
        assert order == []  # also the small ones, which would fit, wait for their turn
        budget.give(6)
        await settle()
        assert order == [5, 1, 2]
        assert budget.used == 8
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_what_is_larger_than_all_of_it_is_alone() -> None:
    async def run() -> None:
        budget = ByteBudget(10)
        await budget.take(1)
        large = asyncio.create_task(budget.take(25))
        await settle()
        assert not large.done()
        budget.give(1)
        assert await large == 10
        small = asyncio.create_task(budget.take(1))
        await settle()
        assert not small.done()
        budget.give(10)
        assert await small == 1
        assert await budget.take(0) == 0

    asyncio.run(run())


def test_whoever_gives_up_waiting_takes_nothing() -> None:
    async def run() -> None:
        budget = ByteBudget(10)
        await budget.take(8)
        first, second = (asyncio.create_task(budget.take(size)) for size in (5, 2))
        await settle()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == 2
        third = asyncio.create_task(budget.take(3))
        await settle()
        budget.give(8)  # its turn has come, and at the same moment
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
        assert budget.used == 2

    asyncio.run(run())


def test_taking_at_once_waits_for_nothing_and_passes_nobody() -> None:
    async def run() -> None:
        budget = ByteBudget(10)
        assert (budget.take_now(11), budget.take_now(6), budget.take_now(6)) == (0, 6, 0)
        waiting = asyncio.create_task(budget.take(8))
        await settle()
        assert budget.take_now(1) == 0
        budget.give(6)
        assert (await waiting, budget.used) == (8, 8)

    asyncio.run(run())
