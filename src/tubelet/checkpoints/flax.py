"""The msgpack files of Flax (``flax.serialization``), read and written without Flax.

A file is one msgpack map. Arrays are extension type 1, numpy scalars type 3; both hold a msgpack of (shape, dtype
name, bytes in C order). An array of more than 2^30 bytes is a map ``{__msgpack_chunked_array__, shape, chunks}``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from tubelet.spec.errors import RecipeError

__all__ = ["flatten", "pack_tree", "read_tree"]

ARRAY, SCALAR = 1, 3
CHUNKED = "__msgpack_chunked_array__"
FLOAT_DTYPES = ("float16", "float32", "float64")


def read_tree(path: Path) -> dict[str, Any]:
    """Reads a file's map; its arrays stay packed until `flatten` asks for them.

    Raises:
        RecipeError: ``bad_checkpoint``, where the file cannot be read or is no msgpack map.
    """
    try:
        tree = msgpack.unpackb(path.read_bytes(), raw=False, strict_map_key=False)
    except OSError as exc:
        raise RecipeError("bad_checkpoint", f"cannot read {path}: {exc.strerror}") from exc
    # msgpack's own errors, and those of Python that it lets through, all say the same: these bytes are something else.
    except (ValueError, TypeError, msgpack.UnpackException) as exc:
        raise RecipeError(
            "bad_checkpoint", f"{path.name} is not a Flax msgpack file: {exc or 'it is cut off'}"
        ) from exc
    if not isinstance(tree, dict):
        raise RecipeError("bad_checkpoint", f"{path.name} must hold a msgpack map, got {type(tree).__name__}")
    return tree


def pack_tree(tree: Mapping[str, Any]) -> bytes:
    """Packs nested maps of arrays, numpy scalars, numbers, texts and None as Flax would."""
    # strict_types: numpy.float64 is a subclass of float, and would lose its type.
    packed: bytes = msgpack.packb(tree, default=_pack_numpy, strict_types=True)
    return packed


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yields the arrays of nested maps as (names joined by '/', float32 array); float16, bfloat16 and float64 are cast.

    Raises:
        RecipeError: ``bad_checkpoint``, for a leaf that is no array of real numbers, or not finite.
    """
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and CHUNKED not in value:
            yield from flatten(value, f"{name}/")
        elif value is not None:
            yield name, _leaf(name, value)


def _leaf(name: str, value: Any) -> NDArray[np.float32]:
    try:
        array = _chunked(value) if isinstance(value, dict) else _unpack_array(value)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as exc:
        raise RecipeError("bad_checkpoint", f"{name} is no array of real numbers: {exc}") from exc
    if not np.isfinite(array).all():
        raise RecipeError("bad_checkpoint", f"{name} holds numbers that are not finite")
    return array


def _chunked(value: Mapping[str, Any]) -> NDArray[np.float32]:
    shape, chunks = (_in_order(value[key]) for key in ("shape", "chunks"))
    whole: NDArray[np.float32] = np.concatenate([_unpack_array(chunk).reshape(-1) for chunk in chunks]).reshape(shape)
    return whole


def _in_order(value: Any) -> list[Any]:
    """Flax writes a tuple as a map from "0", "1", ..."""
    return [value[str(i)] for i in range(len(value))] if isinstance(value, dict) else list(value)


def _unpack_array(value: Any) -> NDArray[np.float32]:
    if not isinstance(value, msgpack.ExtType) or value.code not in (ARRAY, SCALAR):
        raise TypeError(f"expected extension type {ARRAY} or {SCALAR}, got {type(value).__name__}")
    shape, dtype, data = msgpack.unpackb(value.data, raw=False)
    if dtype == "bfloat16":  # the upper half of a float32
        array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif dtype in FLOAT_DTYPES:
        array = np.frombuffer(data, np.dtype(dtype)).astype(np.float32)
    else:
        raise TypeError(f"expected bfloat16, {', '.join(FLOAT_DTYPES)}, got {dtype}")
    if array.size != math.prod(shape):
        raise ValueError(f"{array.size} numbers for shape {tuple(shape)}")
    shaped: NDArray[np.float32] = array.reshape(shape)
    return shaped


def _pack_numpy(value: object) -> msgpack.ExtType:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"expected an array or a numpy scalar, got {type(value).__name__}")
    payload = msgpack.packb((value.shape, value.dtype.name, value.tobytes()))
    return msgpack.ExtType(ARRAY if isinstance(value, np.ndarray) else SCALAR, payload)
