"""Rows and runs for tests of the archive."""

from __future__ import annotations

from typing import Any

from tubelet.archive.items import Item
from tubelet.archive.rows import Row, Run
from tubelet.clients import Label

RUN = Run(model="motion", protocol="1x1", contract_digest="sha256:00", top=5, keeps_logits=False)


def made_row(number: int, **changes: Any) -> Row:
    """The answer for one of many videos; all contents differ."""
    plain: dict[str, Any] = {
        "item": Item(f"/videos/{number:06d}.mp4"),
        "content_sha256": f"{number:064x}",
        "size_bytes": 1000 + number,
        "started_s": 1.8e9 + number,
        "finished_s": 1.8e9 + number + 0.25,
        "server_ms": 12.5,
        "duration_s": 4.0,
        "frames_decoded": 100,
        "views": 1,
        "labels": (Label(name="left", index=0, probability=0.75), Label(name="right", index=1, probability=0.25)),
    }
    return Row(**{**plain, **changes})
