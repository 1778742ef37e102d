"""What a caller sends, as tensors; what could not be sent, or is sure to be refused, is not sent at all."""

from __future__ import annotations

import os
from numbers import Real
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from tubelet.clients.calls import Tensor
from tubelet.spec.errors import InvalidRequestError, LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract

__all__ = ["Source", "check_source", "feature_tensors", "is_to_be_read", "source_tensors"]

Source = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO | NDArray[np.uint8]
"""A video: the bytes of a file, where it lies, an open file, or decoded frames uint8 ``[N, h, w, 3]``."""

_FLOATS = np.finfo(np.float32)
_MAX_MESSAGE_BYTES = 2**31 - 2**16
"""A protobuf message holds less than 2 GiB; the rest is left for names and parameters."""


def check_source(source: Source, *, fps: float | None, chunked: bool) -> None:
    """Refuses what is no source, or does not go together with the wishes.

    Raises:
        InvalidRequestError: ``bad_input`` or ``bad_parameter``.
    """
    if isinstance(source, np.ndarray):
        if not isinstance(fps, Real) or not _FLOATS.tiny <= fps <= _FLOATS.max:
            raise InvalidRequestError("bad_parameter", f"decoded frames need fps, a positive number, got {fps!r}")
        if chunked:
            raise InvalidRequestError("bad_parameter", "chunked is of encoded videos; decoded frames come all at once")
    elif fps is not None:
        raise InvalidRequestError("bad_parameter", "fps is of decoded frames; an encoded video has its own times")
    elif not isinstance(source, bytes | bytearray | memoryview | str | os.PathLike) and not callable(
        getattr(source, "read", None)
    ):
        raise InvalidRequestError(
            "bad_input",
            "a video is bytes, a path, an open file, or frames as a uint8 array [N, h, w, 3], "
            f"got {type(source).__name__}",
        )


def is_to_be_read(source: Source) -> bool:
    """Whether the bytes are not in memory yet, so that one may have to wait for them."""
    return not isinstance(source, bytes | bytearray | memoryview | np.ndarray)


def source_tensors(source: Source, *, fps: float | None, limits: Limits) -> tuple[Tensor, ...]:
    """VIDEO, or FRAMES and FPS where the frames are decoded; an open file is read to its end.

    Raises:
        InvalidRequestError: ``bad_input``, the file cannot be read, or the frames are not uint8 ``[N, h, w, 3]``.
        LimitError: ``too_large``.
    """
    if isinstance(source, np.ndarray):
        return _frame_tensors(source, fps)
    data = _read_video(source, limits.max_video_bytes)
    return (Tensor("VIDEO", "BYTES", np.array([data], dtype=np.object_)),)


def feature_tensors(
    features: NDArray[np.float32], positions: NDArray[np.int32] | None, contract: Contract
) -> tuple[Tensor, ...]:
    """FEATURES, and POSITIONS where the model is told them.

    Raises:
        InvalidRequestError: ``bad_input``, they are not float32 ``[V, n, D]`` and int32 ``[V, n]``.
        LimitError: ``too_large``.
    """
    width = contract.geometry.feature_dim
    if features.dtype != np.float32 or features.ndim != 3 or features.shape[-1] != width:
        raise InvalidRequestError(
            "bad_input",
            f"features of {contract.name} must be float32 [V, n, {width}], got {features.dtype} {list(features.shape)}",
        )
    _check_message_size(features.nbytes)
    tensor = Tensor("FEATURES", "FP32", features)
    if not contract.geometry.positions:
        return (tensor,)
    if positions is None or positions.dtype != np.int32 or positions.shape != features.shape[:2]:
        got = "none" if positions is None else f"{positions.dtype} {list(positions.shape)}"
        raise InvalidRequestError(
            "bad_input",
            f"{contract.name} needs positions int32 {list(features.shape[:2])} of these features, got {got}",
        )
    return tensor, Tensor("POSITIONS", "INT32", positions)


def _frame_tensors(frames: NDArray[np.uint8], fps: float | None) -> tuple[Tensor, ...]:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise InvalidRequestError(
            "bad_input", f"frames must be uint8 [N, h, w, 3], got {frames.dtype} {list(frames.shape)}"
        )
    _check_message_size(frames.nbytes)
    return Tensor("FRAMES", "UINT8", frames), Tensor("FPS", "FP32", np.array([fps], dtype=np.float32))


def _read_video(source: Source, allowed: int) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        size = memoryview(source).nbytes
        if size > allowed:
            raise _too_large(allowed, str(size))
        data = bytes(source)  # no copy of what are bytes already
    else:
        data = _read_path(source, allowed) if isinstance(source, str | os.PathLike) else _read_file(source, allowed)
        if len(data) > allowed:
            raise _too_large(allowed, f"more than {allowed}")
    _check_message_size(len(data))
    return data


def _read_path(source: str | os.PathLike[str], allowed: int) -> bytes:
    path = Path(source)
    try:
        if path.exists() and not path.is_file():  # a pipe could keep us waiting for ever
            raise InvalidRequestError("bad_input", f"{path} is no regular file")
        with path.open("rb") as file:
            # One byte more than allowed tells, whatever kind of file it is, and reads no more than that.
            return file.read(allowed + 1)
    except (OSError, ValueError) as exc:  # ValueError: a name with a null byte
        reason = getattr(exc, "strerror", None) or exc
        raise InvalidRequestError("bad_input", f"cannot read the file {path}: {reason}") from exc


def _read_file(source: Source, allowed: int) -> bytes:
    parts, size = [], 0
    try:
        # A read may give less than was asked for; only nothing at all is the end.
        while size <= allowed:
            part = cast(BinaryIO, source).read(allowed + 1 - size)
            # Text, or None of what would have to be waited for.
            if not isinstance(part, bytes | bytearray | memoryview):
                raise InvalidRequestError("bad_input", "the file gives no bytes; open it in binary mode, and blocking")
            if not part:
                break
            parts.append(part)
            size += len(part)
    except (OSError, ValueError) as exc:  # ValueError: it is closed
        raise InvalidRequestError("bad_input", f"cannot read the file that was given: {exc}") from exc
    return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)


def _too_large(allowed: int, size: str) -> LimitError:
    return LimitError("too_large", f"max_video_bytes is {allowed}, the video has {size}; it was not sent")


def _check_message_size(size: int) -> None:
    if size > _MAX_MESSAGE_BYTES:
        raise LimitError("too_large", f"a request holds at most {_MAX_MESSAGE_BYTES} bytes, got {size}; send less")
