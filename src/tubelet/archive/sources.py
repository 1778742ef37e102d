"""What an archive is: a folder, a pattern, a list or a single video, here or behind a URL."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from fsspec.utils import glob_translate

from tubelet.archive.addresses import LIST_EXTENSIONS, checked, extension, is_url, is_video, protocol_of, resolve
from tubelet.archive.items import Item
from tubelet.archive.lists import ListFile
from tubelet.archive.remote import FileSystems, attempt
from tubelet.archive.walking import local_files, remote_files
from tubelet.spec.errors import InvalidRequestError

__all__ = ["Source", "open_source"]

_MAGIC = re.compile(r"[*?\[]")
_WEB_MAGIC = re.compile(r"[*\[]")
"""In web addresses a question mark begins the query."""
_ENDING = re.compile(r"\.[^.]*[A-Za-z0-9][^.]*$")


@dataclass(frozen=True, slots=True)
class Source:
    """Made by `open_source`."""

    looked_for: str
    """For people: what its items are."""
    _read: Callable[[], Iterator[Item]]
    _count: Callable[[], int | None] = lambda: None

    def items(self) -> Iterator[Item]:
        """The items, in an order that stays the same while the source does; read as they are taken.

        Raises:
            InvalidRequestError: ``bad_input``: there are none, or a list has a line that cannot be understood.
            StorageError: the storage does not answer at the moment.
            MachineError: ``missing``, a package or credentials that this kind of address needs.
        """
        items = self._read()
        first = next(items, None)
        if first is None:
            raise InvalidRequestError("bad_input", f"no video was found; looked for {self.looked_for}")
        yield first
        yield from items

    def count(self) -> int | None:
        """How many items there are, where that is cheap to tell."""
        return self._count()


def open_source(source: str, storage_options: Mapping[str, object] = MappingProxyType({})) -> Source:
    """Understands what is to be scored.

    Args:
        source: a folder, searched with all folders in it for files whose endings are
            `tubelet.archive.addresses.VIDEO_EXTENSIONS`; a pattern with ``*``, ``?``, ``[...]`` and ``**``; a list,
            known by its ending (``.csv``, ``.jsonl``, ``.ndjson``, ``.parquet``); a video; each as a path or as a URL
            that fsspec opens. A pattern whose last part has an ending of its own (``*.bin``) takes every file that
            matches, not videos only.
        storage_options: for fsspec, see `tubelet.archive.remote.FileSystems`.

    Raises:
        InvalidRequestError: ``bad_input``, there is no such thing.
        StorageError: its storage does not answer at the moment.
        MachineError: ``missing``, a package or credentials that this kind of address needs.
    """
    try:
        address = resolve(checked(source), os.getcwd())  # noqa: PTH109  as text, whatever bytes it has
    except ValueError as exc:
        raise InvalidRequestError("bad_input", str(exc)) from exc
    file_systems = FileSystems(storage_options)
    return _remote(address, file_systems) if is_url(address) else _local(address)


def _local(path: str) -> Source:
    if not os.path.lexists(path) and (magic := _MAGIC.search(path)):
        root = path[: magic.start()].rpartition("/")[0] or "/"
        enters, wanted = _pattern(path[len(root) :].lstrip("/"))
        return Source(f"files that match {path}", lambda: _items(local_files(root, enters=enters, wanted=wanted)))
    if Path(path).is_dir():
        found = partial(local_files, path, enters=_everywhere, wanted=is_video)
        return Source(f"videos (by their endings) in {path} and below", lambda: _items(found()))
    if not os.path.lexists(path):
        raise InvalidRequestError(
            "bad_input", f"{path} does not exist; a folder, a pattern, a list, a video or a URL is expected"
        )
    if extension(path) in LIST_EXTENSIONS:
        return _list(path, lambda: Path(path).open("rb"))
    return Source(path, lambda: _items((path,)), lambda: 1)


def _remote(url: str, file_systems: FileSystems) -> Source:
    file_system, path = attempt(url, lambda: file_systems.open(url))
    if extension(url) in LIST_EXTENSIONS:
        return _list(url, lambda: file_system.open(path, "rb"))
    on_the_web = protocol_of(url) in ("http", "https")
    if magic := (_WEB_MAGIC if on_the_web else _MAGIC).search(url):
        prefix = file_system._strip_protocol(url[: magic.start()].rpartition("/")[0]) + "/"
        fixed = url[: magic.start()].rpartition("/")[2]
        enters, wanted = _pattern(fixed + url[magic.start() :])
        files = partial(remote_files, file_system, url, prefix, begins=fixed, enters=enters, wanted=wanted)
        return Source(f"files that match {url}", lambda: _items(files()))
    if on_the_web:  # where nothing but the slash tells
        is_folder = url.endswith("/")
    else:
        is_folder = not is_video(url) and attempt(url, lambda: file_system.info(path)["type"]) == "directory"
    if is_folder:
        files = partial(remote_files, file_system, url, path.rstrip("/") + "/", enters=_everywhere, wanted=is_video)
        return Source(f"videos (by their endings) in {url} and below", lambda: _items(files()))
    return Source(url, lambda: _items((url,)), lambda: 1)


def _list(address: str, opened: Callable[[], BinaryIO]) -> Source:
    entries = ListFile(address, lambda: attempt(address, opened))
    return Source(f"entries in {address}", entries.items, entries.count)


def _items(addresses: Iterable[str]) -> Iterator[Item]:
    return map(Item, addresses)


def _everywhere(relative: str) -> bool:
    return True


def _pattern(pattern: str) -> tuple[Callable[[str], bool], Callable[[str], bool]]:
    """Of the part of a pattern from its first wild segment on: which folders it reaches into, which files it takes."""
    segments = pattern.split("/")
    try:
        matches = re.compile(glob_translate(pattern)).match
    except ValueError as exc:
        raise InvalidRequestError("bad_input", f"{pattern!r} is no pattern: {exc}") from exc
    takes_all = _ENDING.search(segments[-1]) is not None

    def enters(relative: str) -> bool:
        parts = relative.split("/")
        for part, segment in zip(parts, segments, strict=False):
            if segment == "**":
                return True
            if not fnmatch.fnmatchcase(part, segment):
                return False
        return len(parts) < len(segments)

    def wanted(relative: str) -> bool:
        return (takes_all or is_video(relative)) and matches(relative) is not None

    return enters, wanted
