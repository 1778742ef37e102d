"""Lists of videos: CSV, JSON lines and Parquet, read line by line or batch by batch."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from tubelet.archive.addresses import checked, extension, folder_of, resolve
from tubelet.archive.items import Item
from tubelet.archive.remote import reading
from tubelet.spec.errors import InvalidRequestError

__all__ = ["ListFile"]

_ADDRESS = ("uri", "video")
_SPAN = ("start_s", "end_s")
_BATCH = 4096
_MOST_COUNTED_BYTES = 1 << 30

_Entry = tuple[object, object, object]
"""Address, start and end, as they stand in the list."""


class ListFile:
    """A list of videos.

    Args:
        uri: its address; the ending says what it is, and relative entries begin from its folder.
        opened: opens it for reading.
    """

    def __init__(self, uri: str, opened: Callable[[], AbstractContextManager[BinaryIO]]) -> None:
        self._uri, self._opened = uri, opened
        self._extension = extension(uri)

    def items(self) -> Iterator[Item]:
        """Its entries, in their order.

        Raises:
            InvalidRequestError: ``bad_input``, naming the line (in Parquet the row, from 1), when it is reached.
        """
        folder = folder_of(self._uri)
        with self._opened() as file, closing(self._entries(file)) as entries, self._whole():
            for line, (address, start, end) in entries:
                try:
                    if not isinstance(address, str):
                        raise ValueError(f"the address must be text, got {address!r}")
                    start_s = None if start is None or start == "" else _seconds("start_s", start)
                    end_s = None if end is None or end == "" else _seconds("end_s", end)
                    if start_s is not None and end_s is not None and end_s <= start_s:
                        raise ValueError(f"start_s < end_s is expected, got {start_s:g} and {end_s:g}")
                    item = Item(resolve(checked(address), folder), start_s, end_s)
                except (ValueError, InvalidRequestError) as exc:
                    raise self._unfit(line, getattr(exc, "message", None) or str(exc)) from exc
                yield item

    def count(self) -> int | None:
        """Its entries, if that can be told without much reading: not of a large CSV or JSONL, nor of one elsewhere."""
        with self._opened() as file, self._whole():
            if self._extension == ".parquet":
                return int(pq.ParquetFile(file).metadata.num_rows)  # type: ignore[no-untyped-call]
            if not isinstance(file, io.BufferedReader) or os.fstat(file.fileno()).st_size > _MOST_COUNTED_BYTES:
                return None
            if self._extension == ".csv":
                with io.TextIOWrapper(file, "latin-1", newline="") as text:
                    return max(0, sum(map(bool, csv.reader(text))) - 1)
            return sum(1 for line in file if not line.isspace())

    def _entries(self, file: BinaryIO) -> Generator[tuple[int, _Entry], None, None]:
        if self._extension == ".parquet":
            yield from self._parquet(file)
            return
        # File names are bytes: those that are no UTF-8 come through.
        with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            yield from self._csv(text) if self._extension == ".csv" else self._json(text)

    def _csv(self, file: Iterable[str]) -> Iterator[tuple[int, _Entry]]:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        address = header.index(self._column(header, 1))
        start, end = (header.index(name) if name in header else None for name in _SPAN)
        for row in rows:
            if len(row) == len(header):
                yield (
                    rows.line_num,
                    (row[address], None if start is None else row[start], None if end is None else row[end]),
                )
            elif row:
                raise self._unfit(rows.line_num, f"{len(header)} fields are expected, as in the header, got {len(row)}")

    def _json(self, file: Iterable[str]) -> Iterator[tuple[int, _Entry]]:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                data = json.loads(line)
            except (ValueError, RecursionError) as exc:
                raise self._unfit(number, f"this is no JSON ({exc})") from exc
            if not isinstance(data, dict):
                raise self._unfit(number, f'an object such as {{"uri": "a.mp4"}} is expected, got {line.strip()[:80]}')
            yield number, (data[self._column(data, number)], data.get("start_s"), data.get("end_s"))

    def _parquet(self, file: BinaryIO) -> Iterator[tuple[int, _Entry]]:
        # Not ahead of what is needed: a row group may hold millions of rows.
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)  # type: ignore[no-untyped-call]
        names = parquet.schema_arrow.names
        columns = [self._column(names, 1), *(name for name in _SPAN if name in names)]
        number = 0
        batches: Iterator[pa.RecordBatch] = parquet.iter_batches(batch_size=_BATCH, columns=columns)  # type: ignore[no-untyped-call]
        for batch in batches:
            values = {name: batch.column(name).to_pylist() for name in columns}
            nothing: list[object] = [None] * batch.num_rows
            entries = zip(values[columns[0]], *(values.get(name, nothing) for name in _SPAN), strict=True)
            for number, entry in enumerate(entries, number + 1):  # noqa: B020  goes on counting
                yield number, entry

    def _column(self, names: Iterable[str], line: int) -> str:
        for name in _ADDRESS:
            if name in names:
                return name
        raise self._unfit(
            line, f"a column uri or video is expected, got {', '.join(map(repr, names))[:200] or 'nothing'}"
        )

    def _unfit(self, line: int, what: str) -> InvalidRequestError:
        place = "row" if self._extension == ".parquet" else "line"
        return InvalidRequestError("bad_input", f"{self._uri}, {place} {line}: {what}")

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Errors of the file itself."""
        with reading(self._uri):
            try:
                yield
            except (pa.ArrowException, csv.Error) as exc:
                kind = {".csv": "CSV", ".parquet": "Parquet"}[self._extension]
                raise InvalidRequestError("bad_input", f"{self._uri} is no readable {kind}: {exc}") from exc


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError(f"{name} must be a number of seconds, got {value!r}")
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be a number of seconds, got {value!r}") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{name} must be a number of seconds from 0, got {value!r}")
    return seconds
