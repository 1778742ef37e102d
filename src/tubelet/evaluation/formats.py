"""Reads labelled lists: our own CSV, PySlowFast's paths, and the annotation files of data sets.

===========  ========================================================================================================
``csv``      our own: header ``video,label``, further ``start_s,end_s``; other columns are passed over. Where there is
             no column ``label``, those named as the model's heads count (``video,verb,noun``). Several labels of a
             multi-label model are separated by ``|``
``paths``    PySlowFast (`slowfast/datasets/DATASET.md`): lines ``path label`` or ``path,label``, an index, no header
``kinetics`` `tubelet.evaluation.datasets.read_kinetics`
``ssv2``     `tubelet.evaluation.datasets.read_ssv2`
``ek100``    `tubelet.evaluation.datasets.read_ek100`
===========  ========================================================================================================
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from tubelet.archive.items import Item
from tubelet.evaluation.annotations import AnnotatedList, Entry, locate
from tubelet.evaluation.datasets import read_ek100, read_kinetics, read_ssv2
from tubelet.evaluation.folders import VideoFolder
from tubelet.evaluation.tables import number_or_none, read_table
from tubelet.spec.errors import InvalidRequestError

__all__ = ["FORMATS", "detect_format", "read_list"]

FORMATS = ("csv", "kinetics", "ssv2", "ek100", "paths")

_HEADERS = {
    "csv": frozenset({"video"}),
    "kinetics": frozenset({"youtube_id", "time_start", "time_end"}),
    "ek100": frozenset({"narration_id", "video_id", "verb_class"}),
}
_PATH_LINE = re.compile(r"(?P<path>.+?)[ \t,]+(?P<label>[0-9]+)")


def read_list(
    path: Path,
    *,
    format: str = "auto",
    videos: str | None = None,
    skip_missing: bool = False,
    storage_options: Mapping[str, object] = MappingProxyType({}),
) -> AnnotatedList:
    """Reads a labelled list and finds its videos.

    Args:
        path: of the list.
        format: one of `FORMATS`, or ``auto``: by the file's extension and header.
        videos: folder or URL of the videos; None: the list's own folder.
        skip_missing: leave out the rows whose video is not there.
        storage_options: for fsspec, where the videos lie behind a URL.

    Raises:
        InvalidRequestError: ``bad_input``, the list cannot be read, has none of the formats, or none of its videos is
            there; names the line where one is at fault.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as exc:
        raise InvalidRequestError("bad_input", f"cannot read the list {path}: {exc}") from exc
    if format == "auto":
        format = detect_format(path.name, text)
    columns, entries = _READERS[format](text, path.name)
    folder = VideoFolder(str(path.parent) if videos is None else videos, storage_options)
    return locate(
        path,
        content,
        entries,
        format=format,
        columns=columns,
        by_index=format in ("ek100", "paths"),
        folder=folder,
        skip_missing=skip_missing,
    )


def detect_format(name: str, text: str) -> str:
    """The format of a list, by its file's extension and its first line.

    Raises:
        InvalidRequestError: ``bad_input``, it is none of them.
    """
    if name.lower().endswith(".json"):
        return "ssv2"
    first = next((line for line in text.splitlines() if line.strip()), "")
    names = {cell.strip() for row in csv.reader([first]) for cell in row}
    for format, header in _HEADERS.items():
        if header <= names:
            return format
    if _PATH_LINE.fullmatch(first.strip()):
        return "paths"
    raise InvalidRequestError(
        "bad_input",
        f"{name} is no list of a known format: its first line is {first[:80]!r}; expected a header 'video,label' "
        "(csv), 'label,youtube_id,time_start,time_end' (kinetics) or 'narration_id,...' (ek100), lines 'path index' "
        "(paths), or a file .json (ssv2); name the format by --format",
    )


def _read_csv(text: str, name: str) -> tuple[tuple[str, ...], Iterator[Entry]]:
    header, rows = read_table(text, name)
    others = [column for column in header if column not in ("video", "start_s", "end_s")]
    if "video" not in header or not others:
        raise InvalidRequestError("bad_input", f"{name} must begin with the header 'video,label'")
    columns = ("label",) if "label" in others else tuple(others)

    def entries() -> Iterator[Entry]:
        for line, row in rows:
            if not row["video"]:
                raise InvalidRequestError("bad_input", f"{name}, line {line}: a video is needed")
            start_s, end_s = (number_or_none(row.get(key, ""), key, name, line) for key in ("start_s", "end_s"))
            item = Item(row["video"], start_s, end_s)
            yield Entry(line=line, candidates=(item,), labels=tuple(row[column] for column in columns))

    return columns, entries()


def _read_paths(text: str, name: str) -> tuple[tuple[str, ...], Iterator[Entry]]:
    def entries() -> Iterator[Entry]:
        for line, row in enumerate(text.splitlines(), start=1):
            if not row.strip():
                continue
            found = _PATH_LINE.fullmatch(row.strip())
            if found is None:
                raise InvalidRequestError(
                    "bad_input", f"{name}, line {line}: expected 'path index' or 'path,index', got {row[:80]!r}"
                )
            yield Entry(line=line, candidates=(Item(found["path"]),), labels=(found["label"],))

    return ("label",), entries()


_READERS: dict[str, Callable[[str, str], tuple[tuple[str, ...], Iterator[Entry]]]] = {
    "csv": _read_csv,
    "paths": _read_paths,
    "kinetics": read_kinetics,
    "ssv2": read_ssv2,
    "ek100": read_ek100,
}
