"""Which items travel together to a machine of a cluster, how many of them, and to which servers it sends them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterable, Iterable, Sequence
from dataclasses import dataclass

from tubelet.archive.items import Item, as_stream

__all__ = ["Batch", "BatchSize", "Batches", "Ring"]

_AIM_S = 20.0
"""What a batch should take: long against sending it (milliseconds), short enough to be done twice when a node dies."""
_FIRST, _MOST = 8, 512
_SERVERS_OF_A_BATCH = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """Items that are scored by one task."""

    items: tuple[Item, ...]

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches of the same items, to find the one that kills whoever touches it; two items or more."""
        middle = len(self.items) // 2
        return Batch(self.items[:middle]), Batch(self.items[middle:])


class BatchSize:
    """How many items make a batch: as many as take some 20 s; learnt from those that have come back."""

    def __init__(self) -> None:
        self.items = _FIRST
        """Of the next batch."""

    def took(self, items: int, seconds: float) -> None:
        """Hears that a task worked so long on so many items; changes to no more than twice or half as many."""
        wanted = round(items * _AIM_S / max(seconds, 1e-3))
        self.items = max(1, self.items // 2, min(wanted, 2 * self.items, _MOST))


class Batches:
    """Cuts a stream of items into batches, and takes back those that have to be sent again. No item is in two.

    Args:
        items: read as they are needed.
        size: of each batch, at the time when it is cut.
    """

    def __init__(self, items: AsyncIterable[Item] | Iterable[Item], size: BatchSize) -> None:
        self._items = as_stream(items)
        self._size = size
        self._returned: deque[Batch] = deque()
        self._held: set[bytes] = set()

    async def next(self) -> Batch | None:
        """The next batch; None when there is none, until one is returned."""
        if self._returned:
            return self._returned.popleft()
        items: list[Item] = []
        while len(items) < self._size.items:
            try:
                item = await anext(self._items)
            except StopAsyncIteration:
                break
            if item.key not in self._held:
                self._held.add(item.key)
                items.append(item)
        return Batch(tuple(items)) if items else None

    def again(self, *batches: Batch) -> None:
        """Takes batches back that have to be sent again."""
        self._returned.extend(batches)

    def done(self, batch: Batch) -> None:
        """Forgets a batch whose rows are there."""
        self._held.difference_update(item.key for item in batch.items)


class Ring:
    """Deals servers out to batches: two neighbours of a ring each, so that there is another when one is away.

    Args:
        urls: of all servers.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self._busy: Counter[int] = Counter()
        self._order = list(range(len(self._urls)))

    def __len__(self) -> int:
        return len(self._urls)

    def take(self) -> tuple[int, tuple[str, ...]]:
        """The place with the fewest batches, of several the one that was not taken for longest, and its servers."""
        place = min(self._order, key=lambda place: self._busy[place])
        self._order.remove(place)
        self._order.append(place)
        self._busy[place] += 1
        count = min(_SERVERS_OF_A_BATCH, len(self._urls))
        return place, tuple(self._urls[(place + step) % len(self._urls)] for step in range(count))

    def give(self, place: int) -> None:
        """Gives a place back."""
        self._busy[place] -= 1
