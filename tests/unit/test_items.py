"""What tells items apart."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.archive.items import Item

NAMES = st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)
SECONDS = st.none() | st.floats(0, 1e6)


@settings(deadline=None)
@given(st.tuples(NAMES, SECONDS, SECONDS), st.tuples(NAMES, SECONDS, SECONDS))
def test_keys_are_equal_where_items_are(first: tuple, second: tuple) -> None:
    assert (Item(*first).key == Item(*second).key) == (repr(first) == repr(second))


def test_a_key_is_short_whatever_the_address_and_stays_what_it_was() -> None:
    assert len(Item("/" + "x" * 5000).key) == 16
    # Of ledgers that were written before.
    assert Item("/videos/a.mp4").key.hex() == "3218917408ccc1bea316e1dcb485e32a"
    assert Item("s3://b/a.mp4", 1.5, 2.0).key.hex() == "e5f0134e27a1c964eeda53584abdae3e"


def test_the_whole_is_not_the_part_that_begins_at_its_start() -> None:
    keys = {Item("/a").key, Item("/a", 0.0).key, Item("/a", None, 1.0).key, Item("/a", 1.0, None).key}
    assert len(keys) == 4
