"""Plain data to frozen dataclasses and back, refusing whatever does not fit exactly.

A typo in a recipe or a manifest must never become a number: unknown keys, missing keys and values of another type are
errors that name the place (``recipe.resize.short_side_px``). Supported field types are those that JSON and TOML can
hold: ``str``, ``int``, ``float`` (an int is accepted), ``bool``, ``Literal``, ``X | None``, ``tuple[X, ...]``,
``tuple[X, Y, Z]``, ``dict[str, X]``, other dataclasses, and unions of dataclasses whose first field, a ``Literal``,
says which one it is. TOML has no null, and a key that is left out is an error, unless its field was made by
`optional`: a recipe says ``"none"`` where ``X | None`` is meant to be None (also where X is ``str``: a text cannot be
the word none).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tubelet.spec.errors import RecipeError

__all__ = ["canonical_json", "decode", "digest", "encode", "optional"]

T = TypeVar("T")

NONE = "none"
_OPTIONAL = "tubelet.optional"


def decode(cls: type[T], data: object, *, where: str) -> T:
    """Builds the dataclass ``cls`` from plain data.

    Args:
        cls: a dataclass; its annotations say what is accepted.
        data: what ``json.loads`` or ``tomllib.loads`` gave.
        where: how to call ``data`` in messages, for example ``"recipe"``.

    Raises:
        RecipeError: ``bad_recipe``, naming the place, what was expected and what came.
    """
    if not isinstance(data, dict):
        raise _unfit(where, "a table", data)
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if unknown := sorted(set(data) - set(names)):
        raise RecipeError("bad_recipe", f"{where} has unknown keys {', '.join(unknown)}; it has {', '.join(names)}")
    needed = {field.name for field in dataclasses.fields(cls) if _OPTIONAL not in field.metadata}  # type: ignore[arg-type]
    if missing := [name for name in names if name in needed - set(data)]:
        raise RecipeError("bad_recipe", f"{where} lacks {', '.join(missing)}")
    values = {name: _decode_value(hints[name], data[name], f"{where}.{name}") for name in names if name in data}
    try:
        return cls(**values)
    except ValueError as exc:
        raise RecipeError("bad_recipe", f"{where}: {exc}") from exc


def optional(default: T) -> T:
    """A dataclass field whose key may be left out; nothing that changes a model's numbers is one."""
    field: T = dataclasses.field(default=default, metadata={_OPTIONAL: True})
    return field


def encode(value: Any) -> Any:
    """Turns a dataclass into plain data that `decode` accepts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def canonical_json(value: Any) -> str:
    """JSON in the one form whose bytes are digested: sorted keys, no spaces, no NaN."""
    return json.dumps(encode(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """``sha256:<hex>`` of the canonical JSON of a dataclass."""
    return "sha256:" + hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _decode_value(hint: Any, value: object, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, value, where=where)
    if origin in (Union, types.UnionType):
        return _decode_union(args, value, where)
    if origin is Literal:
        if not any(type(value) is type(arg) and value == arg for arg in args):
            raise _unfit(where, "one of " + ", ".join(map(repr, args)), value)
        return value
    if origin is tuple:
        return _decode_tuple(args, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _unfit(where, "a table", value)
        return {str(key): _decode_value(args[1], item, f"{where}.{key}") for key, item in value.items()}
    return _decode_scalar(hint, value, where)


def _decode_union(args: tuple[Any, ...], value: object, where: str) -> Any:
    kinds = [arg for arg in args if arg is not type(None)]
    if len(kinds) < len(args) and (value is None or value == NONE):
        return None
    if len(kinds) == 1:
        return _decode_value(kinds[0], value, where)
    if not isinstance(value, dict):
        raise _unfit(where, "a table", value)
    tag = dataclasses.fields(kinds[0])[0].name
    by_tag = {name: kind for kind in kinds for name in get_args(get_type_hints(kind)[tag])}
    chosen = value.get(tag)
    if not isinstance(chosen, str) or chosen not in by_tag:
        raise _unfit(f"{where}.{tag}", "one of " + ", ".join(map(repr, by_tag)), chosen)
    return decode(by_tag[chosen], value, where=where)


def _decode_tuple(args: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _unfit(where, "a list", value)
    kinds = (args[0],) * len(value) if len(args) == 2 and args[1] is Ellipsis else args
    if len(kinds) != len(value):
        raise _unfit(where, f"a list of {len(kinds)}", value)
    return tuple(
        _decode_value(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _decode_scalar(hint: Any, value: object, where: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an int may be larger than any float
            number = math.inf
        if not math.isfinite(number):
            raise _unfit(where, "a finite number", value)
        return number
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _unfit(where, f"a value of type {hint.__name__}", value)
    return value


def _unfit(where: str, expected: str, value: object) -> RecipeError:
    return RecipeError("bad_recipe", f"{where} must be {expected}, got {_shown(value)}")


def _shown(value: object) -> str:
    """What came, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
