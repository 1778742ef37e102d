"""Rows to Parquet and back, and the documented columns."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import RUN, made_row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tubelet
from tubelet.archive.columns import rows_to_batch, to_row
from tubelet.archive.items import Item
from tubelet.archive.parts import GROUP_ROWS, SCHEMA, PartReader, part_name, read_rows, read_run, write_part
from tubelet.archive.payloads import from_payload, to_payload
from tubelet.archive.rows import Row
from tubelet.clients import Label
from tubelet.spec.errors import CODES, ContractError, InvalidRequestError

DOCUMENT = Path(__file__).parents[2] / "docs" / "archive-schema.md"

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
NAMES = st.binary(min_size=1, max_size=12).map(os.fsdecode)  # whatever a file can be called, and more
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
LABELS = st.lists(
    st.builds(Label, name=TEXTS, index=st.integers(0, 2**31 - 1), probability=st.floats(0, 1)), max_size=3
).map(tuple)
TIMES = st.integers(0, 4 * 10**15).map(lambda microseconds: microseconds / 1e6)
ROWS = st.builds(
    Row,
    item=st.builds(Item, NAMES, st.none() | NUMBERS, st.none() | NUMBERS),
    content_sha256=st.none() | st.text("0123456789abcdef", min_size=64, max_size=64),
    size_bytes=st.none() | st.integers(0, 2**62),
    started_s=TIMES,
    finished_s=TIMES,
    server_ms=st.none() | NUMBERS,
    duration_s=st.none() | NUMBERS,
    frames_decoded=st.none() | st.integers(0, 2**31 - 1),
    views=st.none() | st.integers(0, 2**31 - 1),
    labels=LABELS,
    product=LABELS,
    logits=st.none()
    | st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=4).map(
        lambda values: np.array(values, np.float32)
    ),
    warnings=st.lists(TEXTS, max_size=2).map(tuple),
    error_code=st.none() | st.sampled_from(CODES),
    error_message=st.none() | TEXTS,
    copied_from=st.none() | TEXTS,
)


def same(one: Row, other: Row) -> bool:
    """Rows hold arrays, which `==` does not compare."""
    logits = [None if row.logits is None else (row.logits.dtype.str, row.logits.tolist()) for row in (one, other)]
    return logits[0] == logits[1] and replace(one, logits=None) == replace(other, logits=None)


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_rows_come_back_from_columns_as_they_were(rows: list[Row]) -> None:
    batch = rows_to_batch(rows, RUN)
    batch.validate(full=True)
    assert all(same(row, to_row(batch, place)) for place, row in enumerate(rows))


@settings(deadline=None)
@given(ROWS)
def test_rows_come_back_from_the_ledger_as_they_were(row: Row) -> None:
    assert same(row, from_payload(*to_payload(row)))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_rows_come_back_from_files_as_they_were(tmp_path: Path, rows: list[Row]) -> None:
    write_part(tmp_path / part_name(0), rows, RUN)
    assert all(same(row, to_row(*PartReader(tmp_path).find(0, place))) for place, row in enumerate(rows))


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": (Label(name="a", index=0, probability=float("nan")),)},
        {"logits": np.array([1, np.inf], np.float32)},
        {"duration_s": float("nan")},
    ],
)
def test_numbers_that_are_none_are_refused_before_they_are_stored(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"finite|JSON compliant"):
        to_payload(made_row(0, **changes))


def test_a_name_that_is_no_text_is_shown_and_kept(tmp_path: Path) -> None:
    write_part(tmp_path / part_name(0), [made_row(0, item=Item(os.fsdecode(b"/v/\xff.mp4"))), made_row(1)], RUN)
    table = pa.Table.from_batches(read_rows(tmp_path))
    assert table["uri"].to_pylist() == [r"/v/\udcff.mp4", "/videos/000001.mp4"]
    assert table["uri_bytes"].to_pylist() == [b"/v/\xff.mp4", None]


def test_a_file_says_which_run_made_it(tmp_path: Path) -> None:
    size = write_part(tmp_path / part_name(0), [made_row(0)], RUN)
    assert size == (tmp_path / part_name(0)).stat().st_size
    assert read_run(tmp_path) == RUN
    metadata = pq.read_metadata(tmp_path / part_name(0))
    assert metadata.metadata[b"tubelet.version"].decode() == tubelet.__version__
    columns = {metadata.row_group(0).column(i).path_in_schema: metadata.row_group(0).column(i) for i in range(24)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert columns["model"].has_dictionary_page
    assert not columns["uri"].has_dictionary_page


def test_parts_are_read_in_their_order_and_in_groups(tmp_path: Path) -> None:
    counts = {0: GROUP_ROWS + 1, 2: 3, 1_000_000: 1, 10: 2}
    for number, count in counts.items():
        write_part(tmp_path / part_name(number), [made_row(number + i) for i in range(count)], RUN)
    batches = list(read_rows(tmp_path, columns=["uri"]))
    assert [batch.num_rows for batch in batches] == [GROUP_ROWS, 1, 3, 2, 1]
    names = [uri for batch in batches for uri in batch["uri"].to_pylist()]
    assert names[-6:] == [f"/videos/{i:06d}.mp4" for i in (2, 3, 4, 10, 11, 1_000_000)]
    reader = PartReader(tmp_path)
    for place in (GROUP_ROWS, GROUP_ROWS - 1, 0, 1, 255, 256):
        assert to_row(*reader.find(0, place)).item.uri == f"/videos/{place:06d}.mp4"
    with pytest.raises(ContractError, match=r"has 3 rows, row 3"):
        reader.find(2, 3)


@pytest.mark.parametrize("keep", [0, 10, 0.5, -4])
def test_a_damaged_file_is_named(tmp_path: Path, keep: float) -> None:
    path = tmp_path / part_name(0)
    write_part(path, [made_row(i) for i in range(100)], RUN)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)] if keep == 0.5 else raw[: int(keep)])
    with pytest.raises(ContractError, match=re.escape(str(path))):
        list(read_rows(tmp_path))


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / part_name(0)
    write_part(path, [made_row(i) for i in range(1000)], RUN)
    chunk = pq.read_metadata(path).row_group(0).column(0)
    raw = bytearray(path.read_bytes())
    raw[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(ContractError, match="damaged"):
        list(read_rows(tmp_path))


def test_other_files_are_no_parts(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"no part-\*\.parquet lies in"):
        list(read_rows(tmp_path))
    with pytest.raises(InvalidRequestError, match=r"no part-\*\.parquet lies in"):
        read_run(tmp_path / "nowhere")
    pq.write_table(pa.table({"uri": ["a"]}), tmp_path / part_name(0))
    with pytest.raises(ContractError, match="no part of this version"):
        list(read_rows(tmp_path))


def test_nothing_is_left_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_part(tmp_path / part_name(0), [made_row(0)], RUN)
    assert list(tmp_path.iterdir()) == []


def test_the_columns_are_those_of_the_document() -> None:
    told = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    kinds = {field.name: str(field.type) + ("" if field.nullable else ", not null") for field in SCHEMA}
    assert {name: kind.replace("`", "").strip() for name, kind, _ in told} == kinds
    assert [name for name, _, _ in told] == SCHEMA.names
    described = {field.name: field.metadata[b"description"].decode() for field in SCHEMA}
    assert {name: meaning.strip() for name, _, meaning in told} == described


def test_the_documents_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "scores").mkdir()
    write_part(tmp_path / "scores" / part_name(0), [made_row(0), made_row(1, error_code="too_long", labels=())], RUN)
    (code, *_) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(DOCUMENT), "exec"), {})
    assert capsys.readouterr().out == "/videos/000000.mp4 left 0.75\n"
