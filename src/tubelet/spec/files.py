"""Files that are never read half: written beside their place, then renamed."""

from __future__ import annotations

import json
from pathlib import Path

from tubelet.spec.strict import encode

__all__ = ["save_json"]


def save_json(value: object, path: Path, *, indent: int | None = None) -> None:
    """Writes a dataclass as JSON; who reads meanwhile sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    text = json.dumps(encode(value), indent=indent, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
