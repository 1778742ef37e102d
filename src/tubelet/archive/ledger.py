"""The ledger of an output folder: which items are done, each exactly once, whatever kills the process.

``DIR/ledger.sqlite`` is the truth, and the parts follow from it. An item is done when the transaction with its row is.
Rows are numbered from 1 without gaps, and a part is a range of these numbers, recorded before its file is written: a
part that a kill interrupts is written again, under the same name, with the same rows. Once it stands, its rows leave
the ledger; their keys and content hashes stay, and where a row lies follows from its number.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType

from tubelet.archive.columns import to_row
from tubelet.archive.database import connect, transaction, translated
from tubelet.archive.items import Item
from tubelet.archive.locking import LEDGER_NAME, FolderLock
from tubelet.archive.parts import PartReader, part_name, part_numbers, write_part
from tubelet.archive.payloads import from_payload, to_payload
from tubelet.archive.rows import Row, Run
from tubelet.spec.errors import ContractError, InvalidRequestError

__all__ = ["Counts", "Ledger"]

_BATCH = 1000
"""Items that one query looks up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How far a folder is, over all runs into it."""

    done: int
    failed: int
    """Of those that are done: with an error instead of an answer."""
    copied: int
    """Of those that are done: with the answer to another item of the same content."""


class Ledger:
    """Made by `Ledger.open`. Threads may call it; they take turns."""

    def __init__(self, folder: Path, run: Run, part_rows: int, lock: FolderLock, db: sqlite3.Connection) -> None:
        self._folder, self._run, self._part_rows = folder, run, part_rows
        self._folder_lock, self._db = lock, db
        self._turn = threading.RLock()
        self._reader = PartReader(folder)
        self._near = 0
        """Number of a row: those of the items that are asked for next tend to lie in the ``2 * _BATCH`` behind it."""

    @classmethod
    def open(cls, folder: Path, run: Run, *, part_rows: int = 10_000) -> Ledger:
        """Takes ``folder`` for this process, and finishes what a killed one began.

        Args:
            folder: is made where it does not exist.
            run: what all rows have in common.
            part_rows: rows of a part; `flush` may write a shorter one.

        Raises:
            InvalidRequestError: ``bad_parameter``: the folder is in use, belongs to another run, or is not ours.
            ContractError: ``contract_mismatch``: it belongs to another contract, or a file of it is missing or damaged;
                nothing was changed.
            MachineError: ``missing``, it cannot be written.
        """
        if part_rows < 1:
            raise InvalidRequestError("bad_parameter", f"part_rows must be positive, got {part_rows}")
        lock = FolderLock(folder)
        try:
            with translated(folder):
                db = connect(folder / LEDGER_NAME, run)
                try:
                    ledger = cls(folder, run, part_rows, lock, db)
                    ledger._check()
                    ledger._write_full()
                except BaseException:
                    db.close()
                    raise
        except BaseException:
            lock.release()
            raise
        return ledger

    def unfinished(self, items: Iterable[Item]) -> Iterator[Item]:
        """Those of ``items`` that are not done yet, in their order; at most 1000 of them are looked at ahead."""
        rest = iter(items)
        while batch := list(islice(rest, _BATCH)):
            by_key = {item.key: item for item in batch}
            with self._at_work():
                self._take_done_out(by_key)
            yield from by_key.values()

    def find(self, content_sha256: str, item: Item) -> Row | None:
        """The row of an earlier item of the same bytes and the same part, as it stands there; see `Row.copy_for`.

        Errors of circumstance (`Row.is_final`) are not found: another try may give an answer.

        Raises:
            ContractError: ``contract_mismatch``, the part with the row is missing or damaged.
        """
        with self._at_work():
            found = self._db.execute(
                "SELECT id, key FROM items WHERE content = ? ORDER BY id LIMIT 1", (_content_key(content_sha256, item),)
            ).fetchone()
            if found is None:
                return None
            row = self._row(found[0])
        if row.item.key != found[1] or row.content_sha256 != content_sha256:
            raise self._damaged(f"row {found[0]} is that of {row.item.uri!r}, not the one that was written")
        return row

    def add(self, rows: Sequence[Row]) -> None:
        """Makes ``rows`` durable in one transaction; an item that is done already is passed over.

        Parts that have become full are written. Where that fails, the rows are durable all the same.

        Raises:
            MachineError: ``missing``: the disk is full, or cannot be written; the same call may be made again.
            ValueError: a number is not finite.
        """
        with self._at_work():
            with transaction(self._db):
                self._insert(rows)
            self._write_full()

    def counts(self) -> Counts:
        """Of all that is done."""
        with self._at_work():
            done, failed, copied = self._db.execute("SELECT done, failed, copied FROM counts").fetchone()
        return Counts(done=done, failed=failed, copied=copied)

    def flush(self) -> None:
        """Writes the rows that are in no part yet into a last, shorter one. Errors as `add`."""
        with self._at_work():
            self._finish_parts()
            while waiting := self._waiting():
                self._write_next(min(waiting, self._part_rows))

    def close(self) -> None:
        """Lets others in. Rows that are in no part stay in the ledger."""
        with self._turn:
            self._db.close()
            self._folder_lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._turn, translated(self._folder):
            yield

    def _take_done_out(self, by_key: dict[bytes, Item]) -> None:
        """Leaves what is not done yet.

        Rows lie roughly in the order of the list, and to read some neighbours takes a quarter of the time of finding
        as many keys, which are spread over the whole index.
        """
        near = self._db.execute(
            "SELECT id, key FROM items WHERE id BETWEEN ? AND ? + ?", (self._near, self._near, 2 * _BATCH)
        )
        ids = [row_id for row_id, key in near if by_key.pop(key, None) is not None]
        if by_key:
            marks = ",".join("?" * len(by_key))
            for row_id, key in self._db.execute(f"SELECT id, key FROM items WHERE key IN ({marks})", list(by_key)):
                del by_key[key]
                ids.append(row_id)
        if ids:
            self._near = sorted(ids)[len(ids) // 2]

    def _insert(self, rows: Sequence[Row]) -> None:
        numbered = []
        for row in rows:
            content = None
            if row.content_sha256 is not None and row.copied_from is None and row.is_final:
                content = _content_key(row.content_sha256, row.item)
            inserted = self._db.execute(
                "INSERT INTO items (key, content) VALUES (?, ?) ON CONFLICT (key) DO NOTHING", (row.item.key, content)
            )
            if inserted.rowcount:
                numbered.append((inserted.lastrowid, row))
        self._db.executemany(
            "INSERT INTO payloads VALUES (?, ?, ?)", ((row_id, *to_payload(row)) for row_id, row in numbered)
        )
        self._db.execute(
            "UPDATE counts SET done = done + ?, failed = failed + ?, copied = copied + ?",
            (
                len(numbered),
                sum(row.error_code is not None for _, row in numbered),
                sum(row.copied_from is not None for _, row in numbered),
            ),
        )

    def _waiting(self) -> int:
        """Rows that no part covers."""
        return self._last_id() - self._covered_id()

    def _last_id(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(id), 0) FROM items").fetchone()[0])

    def _covered_id(self) -> int:
        found = self._db.execute("SELECT last_id FROM parts ORDER BY number DESC LIMIT 1").fetchone()
        return 0 if found is None else int(found[0])

    def _write_full(self) -> None:
        self._finish_parts()
        while self._waiting() >= self._part_rows:
            self._write_next(self._part_rows)

    def _write_next(self, num_rows: int) -> None:
        first = self._covered_id() + 1
        self._db.execute(
            "INSERT INTO parts SELECT coalesce(max(number) + 1, 0), ?, ?, NULL FROM parts",
            (first, first + num_rows - 1),
        )
        self._finish_parts()

    def _finish_parts(self) -> None:
        """Writes every part that is recorded and does not stand; its rows then leave the ledger."""
        unfinished = self._db.execute("SELECT number, first_id, last_id FROM parts WHERE num_bytes IS NULL").fetchall()
        for number, first, last in unfinished:
            payloads = self._db.execute(
                "SELECT body, logits FROM payloads WHERE id BETWEEN ? AND ? ORDER BY id", (first, last)
            )
            rows = (from_payload(*payload) for payload in payloads)
            num_bytes = write_part(self._folder / part_name(number), rows, self._run)
            with transaction(self._db):
                self._db.execute("UPDATE parts SET num_bytes = ? WHERE number = ?", (num_bytes, number))
                self._db.execute("DELETE FROM payloads WHERE id BETWEEN ? AND ?", (first, last))

    def _row(self, row_id: int) -> Row:
        payload = self._db.execute("SELECT body, logits FROM payloads WHERE id = ?", (row_id,)).fetchone()
        if payload is not None:
            return from_payload(*payload)
        part = self._db.execute(
            "SELECT number, first_id FROM parts WHERE first_id <= ? ORDER BY first_id DESC LIMIT 1", (row_id,)
        ).fetchone()
        if part is None:
            raise self._damaged(f"row {row_id} is in no part")
        return to_row(*self._reader.find(part[0], row_id - part[1]))

    def _check(self) -> None:
        """Looks whether ledger and parts belong together, without reading them."""
        for leftover in self._folder.glob(".part-*.parquet.tmp"):
            leftover.unlink()
        recorded = dict(self._db.execute("SELECT number, num_bytes FROM parts").fetchall())
        if unknown := [number for number in part_numbers(self._folder) if number not in recorded]:
            raise self._damaged(f"it does not know {part_name(unknown[0])}")
        for number, num_bytes in recorded.items():
            path = self._folder / part_name(number)
            found = path.stat().st_size if path.exists() else None
            if num_bytes not in (None, found):
                raise self._damaged(f"{path.name} should have {num_bytes} bytes, it has {found or 'none'}")
        last, (waiting,) = self._last_id(), self._db.execute("SELECT count(*) FROM payloads").fetchone()
        covered = self._db.execute("SELECT coalesce(max(last_id), 0) FROM parts WHERE num_bytes NOT NULL").fetchone()[0]
        if (self.counts().done, waiting) != (last, last - covered):
            raise self._damaged(f"it counts {self.counts().done} rows, {last} are numbered and {waiting} are waiting")

    def _damaged(self, what: str) -> ContractError:
        return ContractError(
            "contract_mismatch",
            f"the ledger in {self._folder} and its parts do not belong together: {what}; bring them back from a "
            "copy, or score into another folder",
        )


def _content_key(content_sha256: str, item: Item) -> bytes:
    """16 bytes that stand for the bytes and the part of them."""
    text = f"{content_sha256}\0{item.start_s}\0{item.end_s}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
