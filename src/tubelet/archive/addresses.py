"""Addresses of videos: paths of this machine and URLs, and what their endings say."""

from __future__ import annotations

import os
import posixpath
import re
from urllib.parse import unquote_to_bytes, urlsplit

from tubelet.spec.errors import InvalidRequestError

__all__ = [
    "LIST_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "checked",
    "extension",
    "folder_of",
    "is_url",
    "is_video",
    "protocol_of",
    "resolve",
]

_MPEG = (".mp4", ".m4v", ".mov", ".qt", ".mj2", ".3gp", ".3g2", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob")
_OTHER_CONTAINERS = (".mkv", ".webm", ".avi", ".flv", ".f4v", ".ogv", ".ogg", ".gif", ".asf", ".wmv")
_STREAMS = (".h264", ".264", ".h265", ".265", ".hevc")
VIDEO_EXTENSIONS = frozenset((*_MPEG, *_OTHER_CONTAINERS, *_STREAMS))
"""Of files that a folder is searched for, in lower case: the containers that the server opens."""
LIST_EXTENSIONS = frozenset((".csv", ".jsonl", ".ndjson", ".parquet"))
"""Of lists, in lower case."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)(?:://|::)")


def is_url(address: str) -> bool:
    """Whether fsspec opens it; all else is a path of this machine."""
    return _URL.match(address) is not None


def protocol_of(url: str) -> str:
    """``s3`` of ``s3://bucket/key``; of a chain such as ``zip://a.mp4::s3://bucket/b.zip`` the first."""
    found = _URL.match(url)
    return found[1].lower() if found else "file"


def extension(address: str) -> str:
    """With its dot, in lower case. A web address may have a query behind it."""
    path = urlsplit(address).path if protocol_of(address) in ("http", "https") else address
    return posixpath.splitext(path)[1].lower()


def is_video(address: str) -> bool:
    """Whether its ending is one of `VIDEO_EXTENSIONS`."""
    return extension(address) in VIDEO_EXTENSIONS


def folder_of(address: str) -> str:
    """What relative entries of the list at ``address`` begin from, without a slash at its end."""
    return address.split("?")[0].rpartition("/")[0] if is_url(address) else os.path.dirname(address)  # noqa: PTH120


def resolve(address: str, folder: str) -> str:
    """An absolute path or a URL; one address for one file as far as its text tells.

    Args:
        address: absolute or relative path, or URL; ``file://`` becomes a path.
        folder: absolute path or URL, what a relative ``address`` begins from.

    Raises:
        InvalidRequestError: ``bad_input``, a ``file://`` of another machine.
    """
    if "://" in address and is_url(address):
        return _path_of(address) if protocol_of(address) in ("file", "local") else address
    if address[0] != "/" and is_url(folder):
        root = folder.partition("://")[0] + "://"
        return root + posixpath.normpath(posixpath.join(folder[len(root) :], address))
    # Millions of them, and most are absolute.
    path = os.path.normpath(address if address[0] == "/" else os.path.join(folder, address))  # noqa: PTH118
    return path[1:] if path.startswith("//") else path


def checked(address: str) -> str:
    """The address, if a file can have it.

    Raises:
        ValueError: it is empty, has a null byte, or characters that no file name has. Bytes that are no UTF-8, as
            Python holds them (``surrogateescape``), are fine.
    """
    if not address:
        raise ValueError("the address is empty")
    if "\0" in address:
        raise ValueError(f"the address {address!r} has a null byte")
    if not address.isascii():
        try:
            address.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ValueError(f"the address {address!r} is no text: it has half a character") from None
    return address


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise InvalidRequestError("bad_input", f"{url} is on another machine; file:///PATH is one of this machine")
    return os.path.normpath(os.fsdecode(unquote_to_bytes(parts.path)))
