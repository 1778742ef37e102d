"""The msgpack files of Flax (``flax.serialization``), read and written without Flax.

A file is one msgpack map. Arrays are extension type 1, numpy scalars type 3; both hold a msgpack of (shape, dtype
name, bytes in C order). An array of more than 2^30 bytes is a map ``{__msgpack_chunked_array__, shape, chunks}``.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from torch import Tensor

from tubelet.checkpoints.pickles import first_bytes
from tubelet.spec.errors import RecipeError

__all__ = ["flatten", "pack_tree", "read_tree"]

ARRAY, SCALAR = 1, 3
MAX_DEPTH = 32
"""Maps in maps; the released files have 6, and a hostile one could exhaust the interpreter's stack."""
CHUNKED = "__msgpack_chunked_array__"
DTYPES = {name: getattr(torch, name) for name in ("bfloat16", "float16", "float32", "float64")}


def read_tree(path: Path) -> dict[str, Any]:
    """Reads a file's map; its arrays stay packed until `flatten` asks for them.

    Raises:
        RecipeError: ``bad_checkpoint``, where the file cannot be read or is no msgpack map.
    """
    first_bytes(path, 1)
    try:
        # Mapped: the bytes are not held in memory twice, and the released files have several GB.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            tree = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except OSError as exc:
        raise RecipeError("bad_checkpoint", f"cannot read {path.name}: {exc.strerror}") from exc
    # msgpack's own errors, and those of Python that it lets through, all say the same: these bytes are something else.
    except (ValueError, TypeError, msgpack.UnpackException) as exc:
        reason = str(exc) or "it is cut off, or its maps nest too deep"
        raise RecipeError("bad_checkpoint", f"{path.name} is not a Flax msgpack file: {reason}") from exc
    if not isinstance(tree, dict):
        raise RecipeError("bad_checkpoint", f"{path.name} must hold a msgpack map, got {type(tree).__name__}")
    return tree


def pack_tree(tree: Mapping[str, Any]) -> bytes:
    """Packs nested maps of arrays, numpy scalars, numbers, texts and None as Flax would."""
    # strict_types: numpy.float64 is a subclass of float, and would lose its type.
    packed: bytes = msgpack.packb(tree, default=_pack_numpy, strict_types=True)
    return packed


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yields the arrays of nested maps as (names joined by '/', float32 tensor); other widths of float are cast.

    Raises:
        RecipeError: ``bad_checkpoint``, for a leaf that is no array of real numbers, or maps that nest too deep.
    """
    if prefix.count("/") > MAX_DEPTH:
        raise RecipeError("bad_checkpoint", f"parameters nest deeper than {MAX_DEPTH} maps, at {prefix[:80]}")
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and CHUNKED not in value:
            yield from flatten(value, f"{name}/")
        elif value is not None:
            try:
                yield name, _chunked(value) if isinstance(value, dict) else _unpack_array(value)
            except (ValueError, TypeError, KeyError, OverflowError, RuntimeError, msgpack.UnpackException) as exc:
                raise RecipeError("bad_checkpoint", f"{name} is no array of real numbers: {exc}") from exc


def _chunked(value: Mapping[str, Any]) -> Tensor:
    shape, chunks = (_in_order(value[key]) for key in ("shape", "chunks"))
    return _shaped(torch.cat([_unpack_array(chunk).flatten() for chunk in chunks]), shape)


def _in_order(value: Any) -> list[Any]:
    """Flax writes a tuple as a map from "0", "1", ..."""
    return [value[str(i)] for i in range(len(value))] if isinstance(value, dict) else list(value)


def _unpack_array(value: Any) -> Tensor:
    if not isinstance(value, msgpack.ExtType) or value.code not in (ARRAY, SCALAR):
        raise TypeError(f"expected extension type {ARRAY} or {SCALAR}, got {type(value).__name__}")
    shape, dtype, data = msgpack.unpackb(value.data, raw=False)
    if dtype not in DTYPES or not isinstance(data, bytes):
        raise TypeError(f"expected bytes of {', '.join(DTYPES)}, got {type(data).__name__} of {dtype}")
    # A copy, since the tensor owns what it stands on and may be written to.
    return _shaped(torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]).float(), shape)


def _shaped(numbers: Tensor, shape: list[Any]) -> Tensor:
    if not all(type(side) is int and side > 0 for side in shape) or math.prod(shape) != numbers.numel():
        raise ValueError(f"{numbers.numel()} numbers for shape {tuple(shape)}")
    return numbers.reshape(shape)


def _pack_numpy(value: object) -> msgpack.ExtType:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"expected an array or a numpy scalar, got {type(value).__name__}")
    payload = msgpack.packb((value.shape, value.dtype.name, value.tobytes()))
    return msgpack.ExtType(ARRAY if isinstance(value, np.ndarray) else SCALAR, payload)
