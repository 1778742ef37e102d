"""CSV with a header, its rows by column name, errors by line."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterator

from tubelet.spec.errors import InvalidRequestError

__all__ = ["number_or_none", "read_table"]

Row = tuple[int, dict[str, str]]
"""The line on which a row ends, from 1, and its cells by column, without the spaces around them."""


def read_table(text: str, name: str, needed: Collection[str] = ()) -> tuple[tuple[str, ...], Iterator[Row]]:
    """Reads the header at once and the rows as they are asked for; blank lines are passed over.

    Args:
        text: of the file.
        name: of the file, for messages.
        needed: columns that must be there.

    Raises:
        InvalidRequestError: ``bad_input``, at once or with a row: a column is missing, named twice, or has no cell in
            a row, or the file is no CSV.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(_filled(reader, name), (0, []))[1]
    if missing := [column for column in needed if column not in header]:
        raise InvalidRequestError("bad_input", f"{name} lacks the column {missing[0]}; it has {', '.join(header)}")
    if len(set(header)) < len(header):
        raise InvalidRequestError("bad_input", f"{name} names a column twice: {', '.join(header)}")
    return tuple(header), _rows(reader, name, header)


def number_or_none(text: str, column: str, name: str, line: int) -> float | None:
    """A cell's number; None: the cell is empty.

    Raises:
        InvalidRequestError: ``bad_input``, it is no finite number.
    """
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidRequestError("bad_input", f"{name}, line {line}: {column} must be a number, got {text!r}")
    return value


def _rows(reader: Iterator[list[str]], name: str, header: list[str]) -> Iterator[Row]:
    for line, cells in _filled(reader, name):
        if len(cells) < len(header):
            raise InvalidRequestError(
                "bad_input",
                f"{name}, line {line}: {len(header)} cells expected ({', '.join(header)}), got {len(cells)}",
            )
        yield line, dict(zip(header, cells, strict=False))


def _filled(reader: Iterator[list[str]], name: str) -> Iterator[tuple[int, list[str]]]:
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num, stripped  # type: ignore[attr-defined]
    except csv.Error as exc:
        line = reader.line_num  # type: ignore[attr-defined]
        raise InvalidRequestError("bad_input", f"{name}, line {line}: no CSV: {exc}") from exc
