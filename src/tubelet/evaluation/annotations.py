"""A labelled list as its rows: which video, which part of it, and its labels as they are written.

What the labels mean is known only once the model's classes are; `tubelet.evaluation.targets` holds them against these.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tubelet.archive.items import Item
from tubelet.evaluation.folders import VideoFolder
from tubelet.spec.errors import InvalidRequestError

__all__ = ["AnnotatedList", "Annotation", "Entry", "locate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One row of a list, before its video is looked for."""

    line: int
    """Where it stands in the file, from 1."""
    candidates: tuple[Item, ...]
    """What it may be, by file names relative to the folder of the videos, the best first; at least one."""
    labels: tuple[str, ...]
    """One text for each of the list's label columns, as written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """One row of a list."""

    line: int
    item: Item
    labels: tuple[str, ...]
    """As `Entry.labels`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatedList:
    """A labelled list of videos."""

    file: str
    """Its name, without the folder."""
    format: str
    """One of `tubelet.evaluation.formats.FORMATS`."""
    sha256: str
    """Of its bytes, in hex."""
    columns: tuple[str, ...]
    """Names of the label columns; ``label`` where the format has one without a name."""
    by_index: bool
    """Whether labels are indices only; otherwise a class's name is preferred to an index."""
    rows: tuple[Annotation, ...]
    num_skipped: int
    """Rows that were left out because their video is missing."""

    @property
    def items(self) -> tuple[Item, ...]:
        """What is to be scored, in the order of the list; a video that is listed twice is here twice."""
        return tuple(row.item for row in self.rows)


def locate(
    path: Path,
    content: bytes,
    entries: Iterable[Entry],
    *,
    format: str,
    columns: Sequence[str],
    by_index: bool,
    folder: VideoFolder,
    skip_missing: bool,
) -> AnnotatedList:
    """Finds the videos of a list.

    A video that is not there stays in the list by its first address, and fails when it is scored.

    Args:
        path: of the list.
        content: its bytes.
        entries: its rows.
        format: what it was read as.
        columns: see `AnnotatedList`.
        by_index: see `AnnotatedList`.
        folder: where the videos lie.
        skip_missing: leave out the rows whose video is not there.

    Raises:
        InvalidRequestError: ``bad_input``, the list has no rows, a part ends before it starts, or not one of its videos
            is there.
    """
    rows, num_missing, first = [], 0, None
    for entry in entries:
        first = first or entry
        found = next((item for item in entry.candidates if folder.holds(item.uri)), None)
        if found is None:
            num_missing += 1
            if skip_missing:
                continue
        item = found or entry.candidates[0]
        if item.start_s is not None and item.end_s is not None and item.end_s <= item.start_s:
            raise InvalidRequestError(
                "bad_input",
                f"{path.name}, line {entry.line}: its part must end after it starts, got {item.start_s:g} to "
                f"{item.end_s:g} s",
            )
        item = dataclasses.replace(item, uri=folder.address(item.uri))
        rows.append(Annotation(line=entry.line, item=item, labels=entry.labels))
    if first is None:
        raise InvalidRequestError("bad_input", f"{path} lists no videos")
    if num_missing and num_missing == (num_missing + len(rows) if skip_missing else len(rows)):
        tried = " and ".join(item.uri for item in first.candidates[:3])
        raise InvalidRequestError(
            "bad_input",
            f"none of the {num_missing} videos of {path} is in {folder.root}; looked for {tried} (line {first.line}); "
            "say by --videos where they lie",
        )
    return AnnotatedList(
        file=path.name,
        format=format,
        sha256=hashlib.sha256(content).hexdigest(),
        columns=tuple(columns),
        by_index=by_index,
        rows=tuple(rows),
        num_skipped=num_missing if skip_missing else 0,
    )
