"""Pickled checkpoints (``torch.save``), read without running anything that they say.

A pickle is a program. Ours is read by torch's restricted interpreter (``weights_only=True``), which knows tensors and
plain containers. To its list come inert stand-ins for what trainers save beside the weights: their settings and
their best accuracy. Whatever else a file names is refused.
"""

from __future__ import annotations

import re
import stat
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tubelet.spec.errors import RecipeError

__all__ = ["first_bytes", "read_pickle", "state_dict_of", "without_prefix"]


class _Settings:
    """In place of ``yacs.config.CfgNode``; what is built is an ordered dict, which the interpreter may fill."""

    def __new__(cls, *_args: object) -> OrderedDict[str, Any]:  # type: ignore[misc]
        return OrderedDict()


class _Number:
    """In place of numpy's scalars and their types; takes what they take, and keeps nothing."""

    def __init__(self, *_args: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Settings, "yacs.config.CfgNode"),
    (_Number, "numpy.dtype"),
    (_Number, "numpy.core.multiarray.scalar"),
    (_Number, "numpy._core.multiarray.scalar"),
]

_DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)

_REFUSED_NAME = re.compile(r"GLOBAL (\w[\w.]{1,80}\w) ")


def read_pickle(path: Path) -> Any:
    """Reads what ``torch.save`` wrote, tensors on the CPU.

    Both of torch's formats are read: the archive, whose tensors stay in the file until they are copied
    (`state_dict_of` does), and the older stream of pickles.

    Raises:
        RecipeError: ``bad_checkpoint``: the file cannot be read, is no such file, is cut off, or asks for more than
            weights.
    """
    is_archive = _check_file(path)
    try:
        # The warnings speak of what becomes an error here anyway: TorchScript, another protocol of pickle.
        with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
            warnings.simplefilter("ignore")
            # Mapped, a storage cannot claim more bytes than the file has; read, torch believes its claim.
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as exc:  # hostile bytes reach every line of the reader: no list of its errors would be complete
        raise RecipeError("bad_checkpoint", f"{path.name} {_reason(exc)}") from exc
    # The older format can name storages that it does not hold; nobody would have written what lies in them.
    if _stored_bytes(_tensors_in(tree)) > path.stat().st_size:
        raise RecipeError("bad_checkpoint", f"{path.name} claims tensors that are larger than the file")
    return tree


def state_dict_of(tree: object, *keys: str) -> dict[str, Tensor]:
    """Copies the tensors out of what `read_pickle` gave.

    Args:
        tree: the file's content.
        keys: where the tensors may lie, for example ``"model"``; the first that is there counts. Where none is there,
            the tree itself must be the tensors.

    Returns:
        Dense real tensors on the CPU, contiguous, by their names.

    Raises:
        RecipeError: ``bad_checkpoint``, naming what is no such tensor.
    """
    place = next((key for key in keys if isinstance(tree, Mapping) and key in tree), None)
    found = tree[place] if isinstance(tree, Mapping) and place is not None else tree
    where = f"at {place!r}" if place is not None else "at its top"
    if not isinstance(found, Mapping) or not found:
        raise RecipeError("bad_checkpoint", f"the checkpoint must hold tensors by name {where}, got {_kind(found)}")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise RecipeError(
                "bad_checkpoint",
                f"the checkpoint must hold tensors by name {where}, got {_kind(tensor)} at {str(name)[:80]!r}"
                + (f"; tensors are looked for at {', '.join(map(repr, keys))} first" if keys else ""),
            )
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in _DTYPES:
            raise RecipeError("bad_checkpoint", f"{name[:80]} must be a dense tensor of real numbers")
    _check_claims(found)
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in found.items()}


def without_prefix(parameters: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Takes a prefix (``module.``, of a network wrapped for many GPUs) off all names, where all of them have it."""
    if not all(name.startswith(prefix) for name in parameters):
        return dict(parameters)
    return {name.removeprefix(prefix): tensor for name, tensor in parameters.items()}


def first_bytes(path: Path, count: int) -> bytes:
    """The start of a file, by which its format is known.

    Raises:
        RecipeError: ``bad_checkpoint``, where it cannot be read, is empty or no regular file: a pipe could keep us
            waiting for ever.
    """
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
        start = b""
        if is_file:
            with path.open("rb") as file:
                start = file.read(count)
    except OSError as exc:
        raise RecipeError("bad_checkpoint", f"cannot read {path.name}: {exc.strerror}") from exc
    if not start:
        state = "is empty" if is_file else "must be a file, it is a folder, a pipe or a device"
        raise RecipeError("bad_checkpoint", f"{path.name} {state}")
    return start


def _check_file(path: Path) -> bool:
    """Whether it is an archive; an error, where it is no file or an archive that nobody's ``torch.save`` wrote."""
    start = first_bytes(path, 4)
    if start != b"PK\x03\x04":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as exc:  # as above
        raise RecipeError("bad_checkpoint", f"{path.name} is an archive that is cut off or damaged") from exc
    claimed_bytes = sum(member.file_size for member in members)
    # torch stores without compressing, so a small archive that unpacks to much is not its own.
    if claimed_bytes > path.stat().st_size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise RecipeError("bad_checkpoint", f"{path.name} is a compressed archive; torch.save writes none")
    return True


def _check_claims(tensors: Mapping[str, Tensor]) -> None:
    """Strides of 0 let a few bytes claim to be any number of values."""
    claimed_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed_bytes > (stored_bytes := _stored_bytes(tensors.values())):
        raise RecipeError(
            "bad_checkpoint",
            f"the tensors claim {claimed_bytes} bytes, but {stored_bytes} are stored; save copies, no views",
        )


def _tensors_in(tree: object) -> Iterator[Tensor]:
    """The dense tensors anywhere in dicts, lists and tuples, without recursion and each container once."""
    waiting, seen = [tree], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu":
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _stored_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of memory behind tensors, those that several share counted once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    stored_bytes = end = 0
    for start, num_bytes in sorted({(storage.data_ptr(), storage.nbytes()) for storage in storages}):
        stored_bytes += max(0, start + num_bytes - max(start, end))
        end = max(end, start + num_bytes)
    return stored_bytes


def _reason(exc: Exception) -> str:
    if refused := _REFUSED_NAME.search(str(exc)):
        return (
            f"names {refused[1]}, which no weights need; nothing of it was run. If you trust the file, "
            "save its tensors alone, in a process of your own, and export from that"
        )
    if isinstance(exc, MemoryError):
        return "claims more memory than there is"
    return "is no checkpoint that torch.save wrote, or it is cut off or damaged"


def _kind(value: object) -> str:
    return "nothing" if value is None or value == {} else f"a value of type {type(value).__name__}"
