"""The ledger's SQLite file: its tables, its version, the run it belongs to, and SQLite's errors as ours."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tubelet.archive.parts import part_numbers
from tubelet.archive.rows import Run
from tubelet.spec.errors import ContractError, InvalidRequestError, MachineError
from tubelet.spec.strict import encode

__all__ = ["connect", "transaction", "translated"]

APPLICATION_ID = 0x7475626C
"""``tubl``: tells a ledger from other SQLite files."""
VERSION = 1
_CACHE_KIB = 4 * 1024
"""Of pages that SQLite keeps. Keys are hashes: a larger cache fills up with the rows, and the system has its own."""

_TABLES = """
CREATE TABLE run (description TEXT NOT NULL);
CREATE TABLE counts (done INTEGER NOT NULL, failed INTEGER NOT NULL, copied INTEGER NOT NULL);
INSERT INTO counts VALUES (0, 0, 0);
CREATE TABLE items (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, content BLOB);
CREATE INDEX items_content ON items (content) WHERE content IS NOT NULL;
CREATE TABLE payloads (id INTEGER PRIMARY KEY, body TEXT NOT NULL, logits BLOB);
CREATE TABLE parts (
    number INTEGER PRIMARY KEY, first_id INTEGER NOT NULL UNIQUE, last_id INTEGER NOT NULL, num_bytes INTEGER
);
"""
# Payloads lie apart: they go as soon as a part stands, and the table of all items stays small.


def connect(path: Path, run: Run) -> sqlite3.Connection:
    """Opens the ledger, or makes it.

    Every commit is on the disk before it returns. The connection keeps the file to itself, so that it needs no memory
    shared with other processes and works wherever files can be locked.

    Raises:
        InvalidRequestError: ``bad_parameter``, it belongs to a run with other settings.
        ContractError: ``contract_mismatch``: to one with another contract; or the file is damaged, no ledger, or of
            another version.
    """
    # Threads take turns by the ledger's own lock.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        application = _pragma(db, "application_id")
        if application == 0 and not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
            if part_numbers(path.parent):
                raise ContractError(
                    "contract_mismatch",
                    f"{path} is empty, but parts lie beside it; bring it back, or choose another --out",
                )
            _create(db, run)
        elif (application, _pragma(db, "user_version")) != (APPLICATION_ID, VERSION):
            raise ContractError(
                "contract_mismatch", f"{path} is no ledger of this version of tubelet; choose another --out"
            )
        # The journal's kind lies in the file; how commits are made sure of does not.
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA cache_size = {-_CACHE_KIB}")
        _check_run(path.parent, json.loads(db.execute("SELECT description FROM run").fetchone()[0]), encode(run))
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; on the disk when it ends."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Makes errors of SQLite and of writing files ours.

    Raises:
        ContractError: ``contract_mismatch``, the ledger is damaged.
        MachineError: ``missing``: no room on the disk, or it cannot be written.
    """
    try:
        yield
    except sqlite3.DatabaseError as exc:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise ContractError(
                "contract_mismatch",
                f"the ledger in {folder} is damaged ({exc}); bring it back from a copy, or score into another folder",
            ) from exc
        if isinstance(exc, sqlite3.OperationalError):
            raise _cannot_write(folder, exc) from exc
        raise
    except OSError as exc:
        raise _cannot_write(folder, exc) from exc


def _cannot_write(folder: Path, exc: Exception) -> MachineError:
    return MachineError(
        "missing",
        f"{folder} cannot be written ({getattr(exc, 'strerror', None) or exc}); make room or mend it, and give the "
        "same command again: nothing that was finished is lost",
    )


def _create(db: sqlite3.Connection, run: Run) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    with transaction(db):
        for statement in _TABLES.split(";"):
            db.execute(statement)
        db.execute("INSERT INTO run VALUES (?)", (json.dumps(encode(run)),))
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {VERSION}")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _check_run(folder: Path, had: dict[str, Any], now: dict[str, Any]) -> None:
    differing = [name for name in now if had.get(name) != now[name]]
    if not differing:
        return
    told = "; ".join(f"{name} was {had.get(name)!r}, now it is {now[name]!r}" for name in differing)
    message = f"{folder} belongs to another run: {told}. Choose another --out"
    if differing == ["contract_digest"]:
        raise ContractError("contract_mismatch", message)
    raise InvalidRequestError("bad_parameter", message)
