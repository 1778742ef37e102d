"""`Files`: the bytes of a video, wherever it lies."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from tubelet.archive.addresses import is_url
from tubelet.archive.remote import FileSystems, attempt
from tubelet.spec.errors import InvalidRequestError, LimitError

__all__ = ["Files"]


class Files:
    """Reads whole videos; blocking, for any number of threads.

    Args:
        storage_options: for fsspec, see `tubelet.archive.remote.FileSystems`.
    """

    def __init__(self, storage_options: Mapping[str, object] = MappingProxyType({})) -> None:
        self._file_systems = FileSystems(storage_options)

    def size(self, uri: str) -> int:
        """Bytes of a video.

        Args:
            uri: an absolute path, or a URL.

        Raises:
            InvalidRequestError: ``bad_input``: it is not there, may not be read, is no regular file, or its server does
                not say.
            StorageError: its storage does not answer at the moment.
            MachineError: ``missing``, a package or credentials that this kind of address needs.
        """
        return attempt(uri, lambda: self._remote_size(uri) if is_url(uri) else _regular(uri, Path(uri).stat()))

    def read(self, uri: str, *, most_bytes: int) -> bytes:
        """The bytes of a video; never more than ``most_bytes`` and one are read.

        Args:
            uri: an absolute path, or a URL.
            most_bytes: what may be taken.

        Raises:
            LimitError: ``too_large``, there are more.
            InvalidRequestError, StorageError, MachineError: as `size`.
        """
        return attempt(uri, lambda: self._read_remote(uri, most_bytes) if is_url(uri) else _read(uri, most_bytes))

    def _remote_size(self, uri: str) -> int:
        file_system, path = self._file_systems.open(uri)
        info = file_system.info(path)
        if info.get("type") == "directory":
            raise _no_file(uri, "a folder")
        if info.get("size") is None:
            raise InvalidRequestError("bad_input", f"cannot read {uri}: its server does not say how long it is")
        return int(info["size"])

    def _read_remote(self, uri: str, most_bytes: int) -> bytes:
        file_system, path = self._file_systems.open(uri)
        # Without a cache: one request for all that is wanted, and nothing read ahead.
        with file_system.open(path, "rb", cache_type="none") as file:
            return _at_most(uri, file, most_bytes)


def _read(path: str, most_bytes: int) -> bytes:
    # A pipe without a writer would keep `open` waiting.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _regular(path, os.fstat(descriptor))
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return _at_most(path, file, most_bytes)
    finally:
        os.close(descriptor)


def _at_most(uri: str, file: BinaryIO | io.RawIOBase, most_bytes: int) -> bytes:
    """Streams give what they have, not all that was asked for, until they give nothing."""
    first = file.read(most_bytes + 1) or b""
    taken, rest = io.BytesIO(), b""
    size = len(first)
    while size <= most_bytes and (rest := file.read(most_bytes + 1 - size) or b""):
        if not taken.tell():
            taken.write(first)
        size += taken.write(rest)
    if size > most_bytes:
        raise LimitError("too_large", f"{uri} has more than {most_bytes} bytes, which is the most that is read")
    return taken.getvalue() if taken.tell() else first


def _regular(uri: str, status: os.stat_result) -> int:
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    raise _no_file(uri, kinds.get(stat.S_IFMT(status.st_mode), "a device"))


def _no_file(uri: str, what: str) -> InvalidRequestError:
    return InvalidRequestError("bad_input", f"{uri} is {what}; expected a regular file")
