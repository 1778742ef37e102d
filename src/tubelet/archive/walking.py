"""All files below a folder, one after the other, here or at a server; memory holds one folder at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from tubelet.archive.addresses import protocol_of
from tubelet.archive.remote import attempt
from tubelet.spec.errors import InvalidRequestError

__all__ = ["Enters", "local_files", "remote_files"]

Enters = Callable[[str], bool]
"""Tells by the path of a folder, relative to where the walk began, whether to look into it."""


def local_files(root: str, *, enters: Enters, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Paths below ``root``: those in a folder in the order of their names, then its folders in that order.

    Hidden files and folders are passed over. Links are followed, but not into a folder that the link lies in, and into
    each folder once. A folder that cannot be read is itself given, so that it is not lost in silence.

    Args:
        root: an absolute path.
        enters: see `Enters`.
        wanted: by the path relative to ``root``; only these are kept while a folder is sorted.

    Raises:
        InvalidRequestError: ``bad_input``, ``root`` cannot be read.
    """
    entered: set[str] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        names: list[str] = []
        folders: list[str] = []
        base = folder if folder.endswith("/") else folder + "/"
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    relative = (base + entry.name)[len(root) :].lstrip("/")
                    if _is_folder(entry):
                        if enters(relative) and not _seen(folder, entry, entered):
                            folders.append(entry.name)
                    elif wanted(relative):
                        names.append(entry.name)
        except OSError as exc:
            if folder == root:
                raise InvalidRequestError("bad_input", f"cannot read {root}: {exc.strerror}") from exc
            yield folder
            continue
        names.sort()
        yield from (base + name for name in names)
        waiting += [base + name for name in sorted(folders, reverse=True)]


def remote_files(
    file_system: Any, url: str, root: str, *, enters: Enters, wanted: Callable[[str], bool], begins: str = ""
) -> Iterator[str]:
    """URLs below ``root``, hidden ones left out.

    S3 is asked for pages of a thousand, in the order of its keys. Other file systems give a folder as a whole.

    Args:
        file_system: fsspec's.
        url: what ``root`` came from, for the protocol and for messages.
        root: a folder in it, with a slash at its end.
        enters: see `Enters`; S3 has no folders to look into.
        wanted: by the path relative to ``root``.
        begins: what all relative paths begin with, for S3 to leave out the others.
    """
    on_s3 = hasattr(file_system, "call_s3")
    found = _s3_keys(file_system, url, root + begins) if on_s3 else _tree(file_system, url, root, enters)
    scheme = f"{protocol_of(url)}:"
    for name in found:
        relative = name[len(root) :]
        if wanted(relative) and not any(part.startswith(".") for part in relative.split("/")):
            yield name if name.startswith(scheme) else f"{scheme}//{name}"


def _tree(file_system: Any, url: str, root: str, enters: Enters) -> Iterator[str]:
    waiting = [root.rstrip("/")]
    while waiting:
        folder = waiting.pop()
        entries = attempt(url, lambda folder=folder: file_system.ls(folder, detail=True))  # type: ignore[misc]
        inside = sorted((entry["name"].rstrip("/"), entry["type"]) for entry in entries)
        yield from (name for name, kind in inside if kind != "directory" and name != folder)
        waiting += [
            name
            for name, kind in reversed(inside)
            if kind == "directory" and name.strip("/") != folder.strip("/") and enters(name[len(root) :])
        ]


def _s3_keys(file_system: Any, url: str, path: str) -> Iterator[str]:
    bucket, prefix, _ = file_system.split_path(path)
    token: dict[str, str] = {}
    while True:
        page = attempt(
            url,
            lambda token=token: file_system.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **token),  # type: ignore[misc]
        )
        yield from (f"{bucket}/{entry['Key']}" for entry in page.get("Contents", ()))
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _seen(folder: str, entry: os.DirEntry[str], entered: set[str]) -> bool:
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    above = (os.path.realpath(folder) + "/").startswith(target.rstrip("/") + "/")
    if above or target in entered:
        return True
    entered.add(target)
    return False
