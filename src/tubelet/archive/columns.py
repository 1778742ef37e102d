"""The columns of the output, and how a row becomes them and comes back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tubelet.archive.items import Item
from tubelet.archive.rows import Row, Run
from tubelet.clients import Label

__all__ = ["ROW_COLUMNS", "SCHEMA", "rows_to_batch", "to_row"]

_MICROSECONDS = 1e6


def _column(name: str, kind: pa.DataType, description: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


_LABELS = pa.list_(
    pa.struct(
        [
            pa.field("name", pa.string(), nullable=False),
            pa.field("index", pa.int32(), nullable=False),
            pa.field("probability", pa.float64(), nullable=False),
        ]
    )
)
_TIME = pa.timestamp("us", tz="UTC")

SCHEMA = pa.schema(
    [
        _column("uri", pa.string(), "address of the video: an absolute path, or a URL", nullable=False),
        _column("uri_bytes", pa.binary(), "the path's bytes, where they are not UTF-8 and `uri` only shows them"),
        _column("start_s", pa.float64(), "start of the part that was scored, in seconds; null: the start"),
        _column("end_s", pa.float64(), "end of that part, in seconds; null: the end"),
        _column("content_sha256", pa.string(), "of the video's bytes, in hex; null: they could not be read"),
        _column("size_bytes", pa.int64(), "length of the video's bytes; null: they could not be read"),
        _column("duration_s", pa.float64(), "of the whole video, as its time stamps tell; null without an answer"),
        _column("model", pa.string(), "public name of the model", nullable=False),
        _column("protocol", pa.string(), "how a video became views", nullable=False),
        _column(
            "contract_digest", pa.string(), "of the model's contract: equal digests, equal answers", nullable=False
        ),
        _column("labels", _LABELS, "most probable classes, best first; empty without an answer", nullable=False),
        _column("product", _LABELS, "most probable combinations of the heads' classes, best first", nullable=False),
        _column("logits", pa.list_(pa.float32()), "of all classes, where the run keeps them; else null"),
        _column("frames_decoded", pa.int32(), "frames that the server decoded; null without an answer"),
        _column("views", pa.int32(), "views that were averaged; null without an answer"),
        _column("warnings", pa.list_(pa.string()), "one sentence for each oddity of the video", nullable=False),
        _column("error_code", pa.string(), "stable code of what went wrong; null: it was classified"),
        _column("error_message", pa.string(), "what went wrong, in words; null: it was classified"),
        _column("copied_from", pa.string(), "`uri` of the same content whose answer this is; null: the item's own"),
        _column("started_at", _TIME, "when work on the item began", nullable=False),
        _column("finished_at", _TIME, "when it ended", nullable=False),
        _column("server_ms", pa.float64(), "milliseconds that the server's steps took; null without them"),
    ]
)
"""Of every part. docs/archive-schema.md is compared with it."""

ROW_COLUMNS = tuple(name for name in SCHEMA.names if name not in ("model", "protocol", "contract_digest"))
"""Those that differ from row to row, which `to_row` looks at."""


def rows_to_batch(rows: Sequence[Row], run: Run) -> pa.RecordBatch:
    """Columns of `SCHEMA`, in the rows' order; times are rounded to the microsecond.

    Parquet's text is UTF-8, and file names are bytes. What is no UTF-8 (a lone surrogate in Python's text) is written
    with backslashes, and ``uri_bytes`` then has the bytes as they are.
    """
    values: dict[str, Sequence[Any]] = {
        "uri": [_text(row.item.uri) for row in rows],
        "uri_bytes": [_raw(row.item.uri) for row in rows],
        "start_s": [row.item.start_s for row in rows],
        "end_s": [row.item.end_s for row in rows],
        "model": [run.model] * len(rows),
        "protocol": [run.protocol] * len(rows),
        "contract_digest": [run.contract_digest] * len(rows),
        "labels": [_labels(row.labels) for row in rows],
        "product": [_labels(row.product) for row in rows],
        "warnings": [[_text(warning) for warning in row.warnings] for row in rows],
        "error_message": [_text(row.error_message) for row in rows],
        "copied_from": [_text(row.copied_from) for row in rows],
        "started_at": [round(row.started_s * _MICROSECONDS) for row in rows],
        "finished_at": [round(row.finished_s * _MICROSECONDS) for row in rows],
    }
    columns = [values[name] if name in values else [getattr(row, name) for row in rows] for name in SCHEMA.names]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def to_row(batch: pa.RecordBatch | pa.Table, place: int) -> Row:
    """The row at ``place``, from 0, of a table with `ROW_COLUMNS` at least.

    ``copied_from``, messages and warnings come as they are written.
    """
    value = batch.slice(place, 1)
    times = [value[name][0].value / _MICROSECONDS for name in ("started_at", "finished_at")]
    logits = value["logits"][0]
    plain = {
        name: value[name][0].as_py() for name in ROW_COLUMNS if name not in ("started_at", "finished_at", "logits")
    }
    uri, raw = plain.pop("uri"), plain.pop("uri_bytes")
    item = Item(
        uri if raw is None else raw.decode("utf-8", "surrogateescape"), plain.pop("start_s"), plain.pop("end_s")
    )
    return Row(
        item=item,
        started_s=times[0],
        finished_s=times[1],
        logits=None if not logits.is_valid else logits.values.to_numpy(zero_copy_only=False),
        warnings=tuple(plain.pop("warnings")),
        labels=tuple(Label(**label) for label in plain.pop("labels")),
        product=tuple(Label(**label) for label in plain.pop("product")),
        **plain,
    )


def _labels(labels: tuple[Label, ...]) -> list[dict[str, Any]]:
    return [{"name": _text(label.name), "index": label.index, "probability": _finite(label)} for label in labels]


def _finite(label: Label) -> float:
    if not math.isfinite(label.probability):
        raise ValueError(f"a probability must be finite, got {label.probability} of {label.name!r}")
    return label.probability


def _text(text: str | None) -> str | None:
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def _raw(uri: str) -> bytes | None:
    if uri.isascii():
        return None
    raw = uri.encode("utf-8", "surrogateescape")
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw
    return None
