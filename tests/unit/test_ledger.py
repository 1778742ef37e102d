"""The ledger: every item exactly once, whatever happens to the process, the disk or the files."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import re
import resource
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import RUN, made_row

from tubelet.archive.items import Item
from tubelet.archive.ledger import Counts, Ledger
from tubelet.archive.parts import part_name, read_rows, write_part
from tubelet.archive.rows import Row
from tubelet.spec.errors import ContractError, InvalidRequestError, MachineError, TubeletError

PART_ROWS = 7
NUM_ITEMS = 500
KILLS = 25

# Children that begin with everything imported, and with no thread of the tests.
SERVED = multiprocessing.get_context("forkserver")
SERVED.set_forkserver_preload(["tubelet.archive.ledger"])


def items(count: int) -> list[Item]:
    return [made_row(number).item for number in range(count)]


def uris(folder: Path) -> list[str]:
    return [uri for batch in read_rows(folder, columns=["uri"]) for uri in batch["uri"].to_pylist()]


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*part-*"))


def test_items_are_done_once_and_parts_follow(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "a" / "out", RUN, part_rows=10) as ledger:
        ledger.add([made_row(number) for number in range(25)])
        ledger.add([made_row(3), made_row(25), made_row(25)])
        assert ledger.counts() == Counts(done=26, failed=0, copied=0)
        assert parts(tmp_path / "a" / "out") == [part_name(0), part_name(1)]
        assert list(ledger.unfinished(items(28))) == items(28)[26:]
        ledger.flush()
        ledger.flush()
    assert uris(tmp_path / "a" / "out") == [item.uri for item in items(26)]


def test_a_later_run_goes_on_where_the_last_ended(tmp_path: Path) -> None:
    for begin in (0, 4, 8):
        with Ledger.open(tmp_path, RUN, part_rows=10) as ledger:
            assert len(list(ledger.unfinished(items(12)))) == 12 - begin
            ledger.add([made_row(begin + k, error_code="too_long" if k else None) for k in range(4)])
            assert ledger.counts() == Counts(done=begin + 4, failed=(begin + 4) * 3 // 4, copied=0)
    assert parts(tmp_path) == [part_name(0)]  # waiting rows stay in the ledger until a part is full
    with Ledger.open(tmp_path, RUN) as ledger:
        ledger.flush()
    assert uris(tmp_path) == [item.uri for item in items(12)]


def test_unfinished_items_come_lazily_in_order_and_once_a_batch(tmp_path: Path) -> None:
    taken = 0

    def endless() -> Iterator[Item]:
        nonlocal taken
        while True:
            yield made_row(taken // 2).item
            taken += 1

    with Ledger.open(tmp_path, RUN) as ledger:
        ledger.add([made_row(1)])
        left = ledger.unfinished(endless())
        assert [next(left) for _ in range(3)] == [items(9)[k] for k in (0, 2, 3)]
        assert taken <= 1000


def test_unfinished_looks_again_for_every_batch(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, RUN) as ledger:
        left = ledger.unfinished(items(1500))
        first = next(left)
        ledger.add([made_row(number) for number in range(1100, 1500)])
        assert [first, *left] == items(1100)


@pytest.mark.parametrize("order", ["as written", "backwards", "shuffled", "from the middle"])
def test_unfinished_finds_rows_in_whatever_order_they_were_written(tmp_path: Path, order: str) -> None:
    listed = items(5200)
    done = set(random.Random(5).sample(range(5000), 4900)) | set(range(1000, 4000))
    asked = list(range(5200))
    if order == "backwards":
        asked.reverse()
    elif order == "shuffled":
        random.Random(6).shuffle(asked)
    elif order == "from the middle":
        asked = asked[2500:] + asked[:2500]
    with Ledger.open(tmp_path, RUN) as ledger:
        # As a run does: roughly as listed, with some far behind.
        written = sorted(done, key=lambda number: number + random.Random(number).choice((0, 50, 3000)))
        ledger.add([made_row(number) for number in written])
        assert list(ledger.unfinished(listed[k] for k in asked)) == [listed[k] for k in asked if k not in done]


def test_rows_in_the_order_of_the_list_are_read_and_not_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    asked: list[str] = []

    def traced(*values: Any, **named: Any) -> sqlite3.Connection:
        db = connect(*values, **named)
        db.set_trace_callback(asked.append)
        return db

    monkeypatch.setattr(sqlite3, "connect", traced)
    with Ledger.open(tmp_path, RUN) as ledger:
        ledger.add([made_row(number ^ 63) for number in range(4096)])
        asked.clear()
        assert list(ledger.unfinished(items(4096))) == []
    assert [" IN " in text for text in asked if text.startswith("SELECT")] == [False] * 5


def looked_up(folder: Path, answers: Connection) -> None:
    """In a process of its own: what memory grows by, in bytes, with looks at all of a large ledger."""

    def own_bytes() -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("RssAnon:")[2].split()[0])

    with Ledger.open(folder, RUN) as ledger:
        before = own_bytes()
        answers.send(sum(1 for _ in ledger.unfinished(made_row(number).item for number in range(20_000))))
        answers.send(own_bytes() - before)


def test_memory_does_not_grow_with_the_ledger(tmp_path: Path) -> None:
    Ledger.open(tmp_path, RUN).close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        # Long keys make a ledger of some 40 MB from few rows.
        db.execute(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT 40000) "
            "INSERT INTO items (key) SELECT randomblob(400) FROM numbers"
        )
        db.execute("UPDATE counts SET done = 40000")
        db.execute("INSERT INTO parts VALUES (0, 1, 40000, 1)")
    db.close()
    (tmp_path / part_name(0)).write_bytes(b"x")
    here, there = SERVED.Pipe(duplex=False)
    child = SERVED.Process(target=looked_up, args=(tmp_path, there))
    child.start()
    there.close()
    assert here.recv() == 20_000
    assert here.recv() < 12 << 20
    child.join()
    assert child.exitcode == 0


def test_the_same_bytes_are_found_before_and_after_they_are_in_a_part(tmp_path: Path) -> None:
    row = made_row(5, logits=np.arange(4, dtype=np.float32), item=Item("/odd/\udcff", 1.0, 2.5))
    assert row.content_sha256 is not None
    wanted = Item("/elsewhere.mp4", 1.0, 2.5)
    with Ledger.open(tmp_path, RUN) as ledger:
        ledger.add([made_row(1), row, made_row(2)])
        before = ledger.find(row.content_sha256, wanted)
        ledger.flush()
        after = ledger.find(row.content_sha256, wanted)
        assert ledger.find(row.content_sha256, Item("/elsewhere.mp4")) is None
        assert ledger.find("f" * 64, wanted) is None
        for found in (before, after):
            assert found is not None
            assert found.logits is not None
            assert found.logits.tolist() == [0, 1, 2, 3]
            assert replace(found, logits=None) == replace(row, logits=None)
        assert after is not None
        copy = after.copy_for(wanted, started_s=1.0, finished_s=2.0)
        assert (copy.item, copy.copied_from, copy.server_ms) == (wanted, row.item.uri, None)
        assert copy.labels == row.labels
        ledger.add([copy])
        assert ledger.counts() == Counts(done=4, failed=0, copied=1)
        found = ledger.find(row.content_sha256, wanted)
        assert found is not None
        assert found.item == row.item


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        (None, True),
        ("not_a_video", True),
        ("too_long", True),
        ("bad_parameter", True),
        ("decode_timeout", False),
        ("deadline_exceeded", False),
        ("backend_lost", False),
        ("overloaded", False),
        ("bad_input", False),
        ("internal", False),
    ],
)
def test_errors_of_circumstance_are_tried_again(tmp_path: Path, code: str | None, is_found: bool) -> None:
    row = made_row(1, error_code=code, labels=())
    assert row.content_sha256 is not None
    with Ledger.open(tmp_path, RUN) as ledger:
        ledger.add([row])
        assert (ledger.find(row.content_sha256, Item("/other")) is not None) == is_found


def test_threads_take_turns(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, RUN, part_rows=10) as ledger:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda number: ledger.add([made_row(number)]), range(60)))
        ledger.flush()
        assert ledger.counts().done == 60
    assert sorted(uris(tmp_path)) == [item.uri for item in items(60)]


@pytest.mark.parametrize(
    ("changes", "told", "kind"),
    [
        ({"protocol": "4x3"}, "protocol was '1x1', now it is '4x3'", InvalidRequestError),
        (
            {"model": "other", "contract_digest": "sha256:11"},
            "model was 'motion', now it is 'other'",
            InvalidRequestError,
        ),
        ({"top": 3}, "top was 5, now it is 3", InvalidRequestError),
        ({"keeps_logits": True}, "keeps_logits was False, now it is True", InvalidRequestError),
        ({"contract_digest": "sha256:11"}, "contract_digest was 'sha256:00', now it is 'sha256:11'", ContractError),
    ],
)
def test_another_run_is_refused(tmp_path: Path, changes: dict[str, Any], told: str, kind: type[TubeletError]) -> None:
    with Ledger.open(tmp_path, RUN) as ledger:
        ledger.add([made_row(0)])
    with pytest.raises(kind, match=re.escape(told) + ".*Choose another --out"):
        Ledger.open(tmp_path, replace(RUN, **changes))
    with Ledger.open(tmp_path, RUN) as ledger:
        assert ledger.counts().done == 1


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        Ledger.open(tmp_path, RUN),
        pytest.raises(InvalidRequestError, match=f"another process is scoring into .*process {os.getpid()}"),
    ):
        Ledger.open(tmp_path, RUN)
    Ledger.open(tmp_path, RUN).close()


@pytest.mark.parametrize("name", ["notes.txt", part_name(0), "ledger.sqlite-wal"])
def test_foreign_folders_are_refused_and_stay_as_they_are(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(InvalidRequestError, match=re.escape(f"holds '{name}' but no ledger.sqlite")):
        Ledger.open(tmp_path, RUN)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_hidden_files_and_an_earlier_lock_are_no_strangers(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "ledger.lock").write_bytes(b"")
    Ledger.open(tmp_path, RUN).close()


def test_what_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidRequestError, match=r"--out .*/file cannot be written"):
        Ledger.open(tmp_path / "file", RUN)
    with pytest.raises(InvalidRequestError, match="part_rows must be positive"):
        Ledger.open(tmp_path / "out", RUN, part_rows=0)


def filled(folder: Path) -> None:
    """Two parts, and one row that waits."""
    with Ledger.open(folder, RUN, part_rows=10) as ledger:
        ledger.add([made_row(number) for number in range(21)])


def cut(path: Path, keep: float) -> None:
    os.truncate(path, int(path.stat().st_size * keep))


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 8] ^= 0xFF
    path.write_bytes(raw)


def foreign_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE somebody (x)")
    db.close()


def as_version(path: Path, version: int) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {version}")
    db.close()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: cut(folder / "ledger.sqlite", 0.5), "the ledger in .* is damaged"),
        (lambda folder: cut(folder / "ledger.sqlite", 0), "is empty, but parts lie beside it"),
        (lambda folder: (folder / "ledger.sqlite").write_bytes(b"x" * 8192), "the ledger in .* is damaged"),
        (lambda folder: foreign_database(folder / "ledger.sqlite"), "no ledger of this version"),
        (lambda folder: as_version(folder / "ledger.sqlite", 2), "no ledger of this version"),
        (lambda folder: (folder / part_name(1)).unlink(), "part-000001.parquet should have .* bytes, it has none"),
        (lambda folder: cut(folder / part_name(0), 0.5), "part-000000.parquet should have"),
        (lambda folder: write_part(folder / part_name(2), [made_row(0)], RUN), "does not know part-000002.parquet"),
    ],
)
def test_damage_is_told_and_nothing_is_overwritten(tmp_path: Path, damage: Callable[[Path], Any], told: str) -> None:
    filled(tmp_path)
    damage(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "ledger.lock"}
    with pytest.raises(ContractError, match=told):
        Ledger.open(tmp_path, RUN)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "ledger.lock"}
    assert after == before


def test_a_damaged_part_is_told_when_a_row_is_wanted_from_it(tmp_path: Path) -> None:
    filled(tmp_path)
    flip(tmp_path / part_name(0))
    with (
        Ledger.open(tmp_path, RUN) as ledger,
        pytest.raises(ContractError, match=r"part-000000\.parquet is missing or"),
    ):
        ledger.find(f"{3:064x}", Item("/other"))


def test_a_part_of_other_rows_is_told(tmp_path: Path) -> None:
    filled(tmp_path)
    with Ledger.open(tmp_path, RUN) as ledger:
        write_part(tmp_path / part_name(0), [made_row(number + 50) for number in range(10)], RUN)
        with pytest.raises(ContractError, match=r"row 4 is that of '/videos/000053.mp4'"):
            ledger.find(f"{3:064x}", Item("/other"))


def test_a_ledger_that_lost_rows_is_told(tmp_path: Path) -> None:
    filled(tmp_path)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute("DELETE FROM payloads")
    db.close()
    with pytest.raises(ContractError, match="counts 21 rows, 21 are numbered and 0 are waiting"):
        Ledger.open(tmp_path, RUN)


def test_a_full_disk_is_an_error_of_ours_and_the_next_try_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rows = [made_row(number) for number in range(12)]
    with Ledger.open(tmp_path, RUN, part_rows=10) as ledger:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(MachineError, match=r"cannot be written \(No space left on device\); make room"):
                ledger.add(rows)
        assert parts(tmp_path) == []
        assert ledger.counts().done == 12
        ledger.add(rows)
        assert parts(tmp_path) == [part_name(0)]
        ledger.flush()
    assert uris(tmp_path) == [item.uri for item in items(12)]


def until_full(folder: Path, limit: int, answers: Connection) -> None:
    """In a process of its own, whose files cannot become larger than ``limit`` bytes."""
    with Ledger.open(folder, RUN, part_rows=100) as ledger:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            for number in range(10_000):
                ledger.add([made_row(number)])
                answers.send(number)
        except TubeletError as exc:
            answers.send(str(exc))


@pytest.mark.parametrize("limit", [3000, 200_000])
def test_files_that_cannot_grow_end_the_run_and_a_later_one_goes_on(tmp_path: Path, limit: int) -> None:
    here, there = SERVED.Pipe(duplex=False)
    child = SERVED.Process(target=until_full, args=(tmp_path, limit, there))
    child.start()
    there.close()
    added = 0
    while isinstance(answer := here.recv(), int):
        added = answer + 1
    child.join()
    assert child.exitcode == 0
    assert "cannot be written" in answer
    with Ledger.open(tmp_path, RUN, part_rows=100) as ledger:
        assert ledger.counts().done >= added
        ledger.add([made_row(number) for number in range(10_000) if number < added + 300])
        ledger.flush()
    assert uris(tmp_path) == [item.uri for item in items(added + 300)]


def score(folder: Path, adds: int, seed: int, crash: str | None, progress: Connection) -> None:
    """A run in a process of its own; ``crash`` says where it ends itself when it writes its first part."""
    if crash is not None:
        _crash_at(crash)
    chance = random.Random(seed)
    with Ledger.open(folder, RUN, part_rows=PART_ROWS) as ledger:
        left = ledger.unfinished(items(NUM_ITEMS))
        while rows := [_answer(item) for item in islice(left, chance.randint(1, adds))]:
            ledger.add(rows)
            progress.send_bytes(b".")
        ledger.flush()


def _answer(item: Item) -> Row:
    return made_row(int(Path(item.uri).stem))


def _crash_at(moment: str) -> None:
    replace_file, sync = os.replace, os.fsync

    def dying_replace(source: Any, target: Any) -> None:
        if moment == "renamed":
            replace_file(source, target)
        os._exit(9)

    def dying_sync(descriptor: int) -> None:
        sync(descriptor)
        os._exit(9)

    if moment == "half written":
        os.fsync = dying_sync  # type: ignore[assignment]
    else:
        os.replace = dying_replace  # type: ignore[assignment]


def started(folder: Path, *, adds: int, seed: int, crash: str | None = None) -> tuple[Any, Connection]:
    here, there = SERVED.Pipe(duplex=False)
    child = SERVED.Process(target=score, args=(folder, adds, seed, crash, there))
    child.start()
    there.close()
    return child, here


def followed(progress: Connection, steps: int) -> None:
    """Waits until the child has added ``steps`` times, or has ended."""
    try:
        for _ in range(steps):
            progress.recv_bytes()
    except EOFError:
        pass


def assert_each_once(folder: Path, count: int) -> None:
    counted = Counter(uris(folder))
    assert counted == Counter(item.uri for item in items(count))


def test_killed_at_any_moment_every_item_is_written_once(tmp_path: Path) -> None:
    chance = random.Random(6)
    kills = 0
    for seed in range(KILLS):
        child, progress = started(tmp_path, adds=3, seed=seed)
        followed(progress, chance.randint(0, 9))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += child.exitcode == -signal.SIGKILL
        if not (tmp_path / "ledger.sqlite").exists():  # killed before it began
            continue
        with Ledger.open(tmp_path, RUN, part_rows=PART_ROWS) as ledger:
            done = ledger.counts().done
            assert len(list(ledger.unfinished(items(NUM_ITEMS)))) == NUM_ITEMS - done
            if done >= PART_ROWS:
                assert_each_once(tmp_path, done - done % PART_ROWS)
    assert kills >= 20
    child, progress = started(tmp_path, adds=50, seed=99)
    followed(progress, NUM_ITEMS)
    child.join()
    assert child.exitcode == 0
    assert_each_once(tmp_path, NUM_ITEMS)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("moment", ["half written", "recorded", "renamed"])
def test_a_part_that_was_begun_is_finished_as_it_was_meant(tmp_path: Path, moment: str) -> None:
    child, progress = started(tmp_path, adds=1, seed=0, crash=moment)
    followed(progress, NUM_ITEMS)
    child.join()
    assert child.exitcode == 9
    assert parts(tmp_path) == [part_name(0) if moment == "renamed" else f".{part_name(0)}.tmp"]
    with Ledger.open(tmp_path, RUN, part_rows=1000) as ledger:  # of another size: what was recorded holds
        assert ledger.counts().done == PART_ROWS
        assert parts(tmp_path) == [part_name(0)]
        found = ledger.find(f"{3:064x}", Item("/other"))
        assert found is not None
        assert found.item == items(4)[3]
        ledger.flush()
    assert parts(tmp_path) == [part_name(0)]
    assert_each_once(tmp_path, PART_ROWS)
