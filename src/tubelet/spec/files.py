"""Dataclasses as JSON files that are never read half: written beside their place, then renamed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from tubelet.spec.errors import InvalidRequestError, RecipeError
from tubelet.spec.strict import decode, encode

__all__ = ["load_json", "save_json"]

_T = TypeVar("_T")


def save_json(value: object, path: Path, *, indent: int | None = None) -> None:
    """Writes a dataclass as JSON; who reads meanwhile sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    text = json.dumps(encode(value), indent=indent, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def load_json(cls: type[_T], path: Path, *, what: str) -> _T:
    """Reads what `save_json` wrote, which a caller named; ``what`` it is, for messages.

    Raises:
        InvalidRequestError: ``bad_input``, the file cannot be read or holds something else.
    """
    try:
        return decode(cls, json.loads(path.read_text(encoding="utf-8")), where=what)
    except (OSError, ValueError, RecipeError) as exc:
        raise InvalidRequestError("bad_input", f"cannot read the {what} {path}: {exc}") from exc
