"""How the ledger keeps a row until it stands in a part: JSON, and the logits as bytes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from tubelet.archive.items import Item
from tubelet.archive.rows import Row
from tubelet.clients import Label

__all__ = ["from_payload", "to_payload"]

_PLAIN = tuple(
    field.name for field in dataclasses.fields(Row) if field.name not in ("item", "labels", "product", "logits")
)


def to_payload(row: Row) -> tuple[str, bytes | None]:
    """JSON in ASCII, which holds every name that a file can have, and the logits as little-endian float32.

    Raises:
        ValueError: a number is not finite.
    """
    data: dict[str, Any] = {name: getattr(row, name) for name in _PLAIN}
    data["item"] = (row.item.uri, row.item.start_s, row.item.end_s)
    for name in ("labels", "product"):
        data[name] = [(label.name, label.index, label.probability) for label in getattr(row, name)]
    if row.logits is not None and not np.isfinite(row.logits).all():
        raise ValueError(f"logits must be finite, those of {row.item.uri!r} are not")
    logits = None if row.logits is None else np.ascontiguousarray(row.logits, dtype="<f4").tobytes()
    return json.dumps(data, allow_nan=False, separators=(",", ":")), logits


def from_payload(body: str, logits: bytes | None) -> Row:
    """The row as it was."""
    data: dict[str, Any] = json.loads(body)
    for name in ("labels", "product"):
        data[name] = tuple(Label(name=text, index=index, probability=share) for text, index, share in data[name])
    data["item"] = Item(*data["item"])
    data["warnings"] = tuple(data["warnings"])
    return Row(**data, logits=None if logits is None else np.frombuffer(logits, dtype="<f4"))
