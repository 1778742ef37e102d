"""Several calls at a time, in order."""

from __future__ import annotations

import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.clients.ordered import map_ordered


@given(items=st.lists(st.integers(), max_size=30), concurrency=st.integers(1, 5))
def test_it_is_map(items: list[int], concurrency: int) -> None:
    assert list(map_ordered(lambda item: item + 1, items, concurrency=concurrency)) == [item + 1 for item in items]


def test_results_wait_for_the_ones_before_them() -> None:
    second_is_done = threading.Event()

    def first_waits(item: int) -> int:
        if item == 1:
            assert second_is_done.wait(60)
        else:
            second_is_done.set()
        return item

    assert list(map_ordered(first_waits, [1, 2], concurrency=2)) == [1, 2]


def test_an_endless_list_is_taken_only_a_little_ahead() -> None:
    endless = itertools.count(1)
    results = map_ordered(lambda item: item, endless, concurrency=3)
    assert list(itertools.islice(results, 10)) == list(range(1, 11))
    assert next(endless) <= 10 + 2 * 3 + 1


def test_an_error_is_raised_and_ends_the_rest() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_ordered(lambda item: 1 // item, [1, 0, 1], concurrency=1))
