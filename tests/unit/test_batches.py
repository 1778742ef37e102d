"""How items are cut into batches, and servers dealt out to them."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tubelet.archive.batches import Batch, Batches, BatchSize, Ring
from tubelet.archive.items import Item


def items(count: int) -> list[Item]:
    return [Item(f"/{number}.mp4") for number in range(count)]


async def all_batches(batches: Batches) -> list[Batch]:
    found = []
    while (batch := await batches.next()) is not None:
        found.append(batch)
    return found


@given(count=st.integers(0, 100))
def test_batches_hold_every_item_once_and_in_order(count: int) -> None:
    found = asyncio.run(all_batches(Batches(items(count), BatchSize())))
    assert [item for batch in found for item in batch.items] == items(count)


def test_an_item_that_is_listed_twice_travels_once_until_it_is_done() -> None:
    async def run() -> None:
        batches = Batches([Item("/a.mp4"), Item("/b.mp4"), Item("/a.mp4"), Item("/a.mp4", start_s=1.0)], BatchSize())
        batch = await batches.next()
        assert batch is not None
        assert [(item.uri, item.start_s) for item in batch.items] == [
            ("/a.mp4", None),
            ("/b.mp4", None),
            ("/a.mp4", 1.0),
        ]
        assert await batches.next() is None

    asyncio.run(run())


def test_what_comes_back_goes_first() -> None:
    async def run() -> None:
        batches = Batches(items(20), BatchSize())
        first = await batches.next()
        assert first is not None
        batches.again(*first.halves())
        found = await all_batches(batches)
        assert [len(batch.items) for batch in found] == [4, 4, 8, 4]
        assert [item for batch in found for item in batch.items] == items(20)

    asyncio.run(run())


def test_batches_grow_until_they_take_twenty_seconds() -> None:
    size = BatchSize()
    for _ in range(20):
        size.took(size.items, size.items * 0.5)
    assert size.items == 40


@given(seconds=st.lists(st.floats(0, 1e4), max_size=30))
def test_batches_have_between_1_and_512_items_and_change_at_most_by_a_factor_of_two(seconds: list[float]) -> None:
    size = BatchSize()
    for took in seconds:
        before = size.items
        size.took(size.items, took)
        assert 1 <= size.items <= 512
        assert before // 2 <= size.items <= 2 * before


@given(num_servers=st.integers(1, 20), num_batches=st.integers(0, 60))
def test_servers_are_dealt_out_evenly_two_at_a_time(num_servers: int, num_batches: int) -> None:
    ring = Ring([f"server{number}" for number in range(num_servers)])
    dealt = [ring.take()[1] for _ in range(num_batches)]
    assert all(len(set(urls)) == min(2, num_servers) for urls in dealt)
    counts = Counter(url for urls in dealt for url in urls)
    if num_batches >= num_servers:
        assert max(counts.values()) - min(counts.values()) <= 2


def test_a_place_that_is_given_back_is_dealt_next() -> None:
    ring = Ring(["a", "b", "c"])
    assert [ring.take() for _ in range(3)] == [(0, ("a", "b")), (1, ("b", "c")), (2, ("c", "a"))]
    ring.give(1)
    assert ring.take() == (1, ("b", "c"))
