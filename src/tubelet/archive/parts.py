"""Parts of the output: Parquet files that stand whole or not at all."""

from __future__ import annotations

import io
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import tubelet
from tubelet.archive.columns import ROW_COLUMNS, SCHEMA, rows_to_batch
from tubelet.archive.rows import Row, Run
from tubelet.spec.errors import ContractError, InvalidRequestError
from tubelet.spec.strict import decode, encode

__all__ = ["SCHEMA", "PartReader", "open_part", "part_name", "part_numbers", "read_rows", "read_run", "write_part"]

GROUP_ROWS = 2048
"""Rows that are in memory as columns while a part is written, and that are read to get at one of them."""
_STRETCH_ROWS = 256
"""Rows that are in memory as Python's objects meanwhile, ten times as large, and that are kept after one was read."""
_STRETCHES_KEPT = 32
_RUN = b"tubelet.run"
_VERSION = b"tubelet.version"
_NAME = re.compile(r"part-([0-9]{6,})\.parquet")
# Columns whose values hardly ever come twice get no dictionary.
_REPEATED = (
    "model",
    "protocol",
    "contract_digest",
    "labels.list.element.name",
    "product.list.element.name",
    "warnings.list.element",
    "error_code",
    "error_message",
)


def part_name(number: int) -> str:
    """Name of a part's file, counted from 0."""
    return f"part-{number:06d}.parquet"


def part_numbers(folder: Path) -> list[int]:
    """Of the parts whose files lie in ``folder``, rising."""
    return sorted(int(found[1]) for path in folder.iterdir() if (found := _NAME.fullmatch(path.name)))


def write_part(path: Path, rows: Iterable[Row], run: Run) -> int:
    """Writes a part so that ``path`` never names half of one, even if the machine loses power; gives its bytes.

    Raises:
        OSError: no room, or the folder cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            _write(file, iter(rows), run)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        _give_memory_back()
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return size


def open_part(path: Path) -> pq.ParquetFile:
    """Opens a part for reading; only its end is read here. Checksums are compared when pages are read.

    Raises:
        ContractError: ``contract_mismatch``: not there, broken, or with other columns than `SCHEMA`.
    """
    with _unbroken(path):
        part = pq.ParquetFile(path, page_checksum_verification=True)  # type: ignore[no-untyped-call]
    if not part.schema_arrow.equals(SCHEMA) or _RUN not in (part.schema_arrow.metadata or {}):
        part.close()
        raise ContractError("contract_mismatch", f"{path} is no part of this version's columns; read it with its own")
    return part


def read_rows(folder: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of all parts in ``folder``, in the order in which they were written; memory holds one at a time.

    Args:
        folder: what ``tubelet score --out`` filled.
        columns: names of `SCHEMA`; None: all. ``pyarrow.Table.from_batches(read_rows(folder))`` makes one table.

    Raises:
        InvalidRequestError: ``bad_input``, there is no part.
        ContractError: ``contract_mismatch``, a part is broken or has other columns.
    """
    for path in _paths(folder):
        with open_part(path) as part, _unbroken(path):
            for group in range(part.num_row_groups):
                table = part.read_row_group(group, columns=columns).replace_schema_metadata(None)
                yield from table.combine_chunks().to_batches()


def read_run(folder: Path) -> Run:
    """What all rows of ``folder`` have in common; errors as `read_rows`."""
    with open_part(_paths(folder)[0]) as part:
        return decode(Run, json.loads(part.schema_arrow.metadata[_RUN]), where="run")


class PartReader:
    """Reads single rows back. Keeps what lay beside those that were read last: the same content tends to come in runs.

    Args:
        folder: of the parts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    def find(self, number: int, place: int) -> tuple[pa.Table, int]:
        """A table of `ROW_COLUMNS`, and the place in it, of the row at ``place`` of part ``number``, both from 0.

        Raises:
            ContractError: ``contract_mismatch``: the part is missing, damaged or too short.
        """
        for (kept, first), table in self._kept.items():
            if kept == number and first <= place < first + table.num_rows:
                self._kept.move_to_end((kept, first))
                return table, place - first
        first, table = self._read(number, place)
        _give_memory_back()
        self._kept[number, first] = table
        if len(self._kept) > _STRETCHES_KEPT:
            self._kept.popitem(last=False)
        return table, place - first

    def _read(self, number: int, place: int) -> tuple[int, pa.Table]:
        path = self._folder / part_name(number)
        with open_part(path) as part, _unbroken(path):
            first = 0
            for group in range(part.num_row_groups):
                rows = part.metadata.row_group(group).num_rows
                if place < first + rows:
                    # In this thread: each of a pool's threads would keep memory.
                    table = part.read_row_group(group, columns=list(ROW_COLUMNS), use_threads=False)
                    skipped = (place - first) // _STRETCH_ROWS * _STRETCH_ROWS
                    return first + skipped, _packed(table.slice(skipped, _STRETCH_ROWS))
                first += rows
        raise ContractError("contract_mismatch", f"{path} has {first} rows, row {place} was written into it")


def _packed(table: pa.Table) -> pa.Table:
    """The same table in one piece of memory.

    Buffers of a group that are kept would hold the rest of it, and lie among those that come and go with the next
    groups, so that Arrow's allocator could give none of its pages back: 20 MiB more after a hundred groups.
    """
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(pa.py_buffer(stream.getvalue())).read_all()


def _give_memory_back() -> None:
    """Has Arrow's allocator give back what this thread no longer needs; else it keeps the most that there ever was."""
    pa.default_memory_pool().release_unused()


@contextmanager
def _unbroken(path: Path) -> Iterator[None]:
    """Makes what pyarrow says of a damaged file a ContractError."""
    try:
        yield
    except (pa.ArrowException, OSError) as exc:
        raise ContractError(
            "contract_mismatch",
            f"{path} is missing or damaged ({exc}); bring it back from a copy, or score into another folder",
        ) from exc


def _paths(folder: Path) -> list[Path]:
    numbers = part_numbers(folder) if folder.is_dir() else []
    if not numbers:
        raise InvalidRequestError(
            "bad_input", f"no part-*.parquet lies in {folder}; name the folder that `tubelet score --out` filled"
        )
    return [folder / part_name(number) for number in numbers]


def _write(file: object, rows: Iterator[Row], run: Run) -> None:
    schema = SCHEMA.with_metadata({_RUN: json.dumps(encode(run)), _VERSION: tubelet.__version__})
    with pq.ParquetWriter(  # type: ignore[no-untyped-call]
        file,
        schema,
        compression="zstd",
        use_dictionary=list(_REPEATED),
        column_encoding={"logits.list.element": "BYTE_STREAM_SPLIT"},
        write_page_checksum=True,
    ) as writer:
        stretches = iter(lambda: list(islice(rows, _STRETCH_ROWS)), [])
        batches = (rows_to_batch(stretch, run).replace_schema_metadata(schema.metadata) for stretch in stretches)
        while group := list(islice(batches, GROUP_ROWS // _STRETCH_ROWS)):
            writer.write_table(pa.Table.from_batches(group))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
