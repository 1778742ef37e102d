"""What becomes of an item when its storage does not answer: it is waited for, and no row says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from tubelet.archive.budget import ByteBudget
from tubelet.archive.events import Event, Stalled
from tubelet.archive.items import Item
from tubelet.archive.reading import Reader
from tubelet.archive.remote import StorageError
from tubelet.archive.work import Work
from tubelet.spec.errors import InvalidRequestError


class Storage:
    """Instead of `tubelet.archive.files.Files`; ``is_away`` says, by address and try, whether it does not answer."""

    def __init__(self, is_away: Callable[[str, int], bool]) -> None:
        self._is_away = is_away
        self.tries: dict[str, int] = {}

    def size(self, uri: str) -> int:
        self.tries[uri] = self.tries.get(uri, 0) + 1
        if self._is_away(uri, self.tries[uri]):
            raise StorageError("backend_lost", f"cannot read {uri} at the moment: 503")
        return 3

    def read(self, uri: str, *, most_bytes: int) -> bytes:
        return uri.encode()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[bytes | BaseException]]:
    monkeypatch.setattr("tubelet.archive.reading._FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("tubelet.archive.reading._MOST_PAUSE_S", 0.001)

    def run(
        storage: Storage, uris: Sequence[str], events: list[Event], *, patience_s: float = 600.0
    ) -> list[bytes | BaseException]:
        async def read_all() -> list[bytes | BaseException]:
            reader = Reader(storage, ByteBudget(1000), patience_s=patience_s, tell=events.append)  # type: ignore[arg-type]
            works = [Work(Item(uri)) for uri in uris]
            found = await asyncio.gather(*(reader.read(work, most_bytes=9) for work in works), return_exceptions=True)
            reader.close()
            return found

        return asyncio.run(read_all())

    return run


def test_storage_that_is_away_for_all_is_waited_for(read: Callable[..., list[bytes | BaseException]]) -> None:
    events: list[Event] = []
    storage = Storage(lambda uri, tries: tries < 10)
    assert read(storage, ["a", "b", "c"], events) == [b"a", b"b", b"c"]
    assert storage.tries == dict.fromkeys("abc", 10)
    assert [type(event) for event in events] == [Stalled]


@pytest.mark.usefixtures("read")  # for its short pauses
def test_what_fails_while_others_are_read_is_bad() -> None:
    storage = Storage(lambda uri, tries: uri == "bad")

    async def others_beside() -> bytes | BaseException:
        reader = Reader(storage, ByteBudget(1000), patience_s=600.0, tell=lambda event: None)  # type: ignore[arg-type]
        bad = asyncio.create_task(reader.read(Work(Item("bad")), most_bytes=9))
        while not bad.done():
            await reader.read(Work(Item("good")), most_bytes=9)
        reader.close()
        return (await asyncio.gather(bad, return_exceptions=True))[0]

    found = asyncio.run(others_beside())
    assert isinstance(found, InvalidRequestError)
    assert found.code == "bad_input"
    assert storage.tries["bad"] in (2, 3)  # the first one may have come before any other was read


def test_patience_with_storage_ends(read: Callable[..., list[bytes | BaseException]]) -> None:
    found = read(Storage(lambda uri, tries: True), ["a", "b"], [], patience_s=0.02)
    # The first one whose patience is over ends a run; the other one is alone then.
    (error,) = [error for error in found if isinstance(error, StorageError)]
    assert "nothing could be read for 0.02 s; cannot read" in error.message


def test_a_single_video_that_is_never_read_ends_no_run(read: Callable[..., list[bytes | BaseException]]) -> None:
    (found,) = read(Storage(lambda uri, tries: True), ["a"], [], patience_s=0.02)
    assert isinstance(found, InvalidRequestError)
