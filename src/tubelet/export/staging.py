"""A folder that is either complete or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tubelet.spec.errors import InvalidRequestError
from tubelet.spec.manifest import MANIFEST_FILE

__all__ = ["link_or_copy", "staging"]


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place when the block succeeds, and is gone when it fails.

    Raises:
        InvalidRequestError: ``bad_parameter``: ``out`` is there and is no bundle, or cannot be replaced.
    """
    if out.exists() and not (out / MANIFEST_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidRequestError("bad_parameter", f"{out} is there and is no bundle; choose another folder")
    partial, old = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
    except OSError as exc:
        raise _not_writable(out, exc) from exc
    try:
        yield partial
        _swap(partial, out, old)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _swap(new: Path, place: Path, old: Path) -> None:
    if not place.exists():
        new.rename(place)
        return
    try:
        place.rename(old)
    except OSError as exc:  # such as a folder that a container has mounted
        raise _not_writable(place, exc) from exc
    try:
        new.rename(place)
    except OSError:
        old.rename(place)
        raise


def _not_writable(out: Path, exc: OSError) -> InvalidRequestError:
    why = exc.strerror or type(exc).__name__
    return InvalidRequestError(
        "bad_parameter",
        f"{out} cannot be replaced as a whole ({why}); make the folder around it writable, or take a copy",
    )


def link_or_copy(source: str | Path, place: str | Path) -> None:
    """Puts a file into another folder too; by a link where possible, since weights are large."""
    try:
        os.link(source, place)
    except OSError:  # another file system, or one without links
        shutil.copy(source, place)
