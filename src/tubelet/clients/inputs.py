"""What a caller sends, as Triton's tensors; what could not be sent, or is sure to be refused, is not sent at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput

from tubelet.spec.errors import InvalidRequestError, LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract

__all__ = ["feature_tensors", "frame_tensors", "video_tensors"]

_MAX_MESSAGE_BYTES = 2**31 - 2**16
"""A protobuf message holds less than 2 GiB; the rest is left for names and parameters."""


def video_tensors(video: bytes | Path, limits: Limits) -> list[InferInput]:
    """VIDEO, from the bytes of a file or from where it lies.

    Raises:
        InvalidRequestError: ``bad_input``, the file cannot be read.
        LimitError: ``too_large``.
    """
    data = _read_video(video, limits)
    tensor = InferInput("VIDEO", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([data], dtype=np.object_))
    return [tensor]


def frame_tensors(frames: NDArray[np.uint8], *, fps: float) -> list[InferInput]:
    """FRAMES and FPS.

    Raises:
        InvalidRequestError: ``bad_input``, the frames are not uint8 ``[N, h, w, 3]``.
        LimitError: ``too_large``.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise InvalidRequestError(
            "bad_input", f"frames must be uint8 [N, h, w, 3], got {frames.dtype} {list(frames.shape)}"
        )
    _check_message_size(frames.nbytes)
    tensors = [InferInput("FRAMES", list(frames.shape), "UINT8"), InferInput("FPS", [1], "FP32")]
    tensors[0].set_data_from_numpy(frames)
    tensors[1].set_data_from_numpy(np.array([fps], dtype=np.float32))
    return tensors


def feature_tensors(
    features: NDArray[np.float32], positions: NDArray[np.int32] | None, contract: Contract
) -> list[InferInput]:
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
    tensors = [InferInput("FEATURES", list(features.shape), "FP32")]
    tensors[0].set_data_from_numpy(features)
    if not contract.geometry.positions:
        return tensors
    if positions is None or positions.dtype != np.int32 or positions.shape != features.shape[:2]:
        got = "none" if positions is None else f"{positions.dtype} {list(positions.shape)}"
        raise InvalidRequestError(
            "bad_input",
            f"{contract.name} needs positions int32 {list(features.shape[:2])} of these features, got {got}",
        )
    tensors.append(InferInput("POSITIONS", list(positions.shape), "INT32"))
    tensors[1].set_data_from_numpy(positions)
    return tensors


def _read_video(video: bytes | Path, limits: Limits) -> bytes:
    allowed = limits.max_video_bytes
    if not isinstance(video, bytes):
        path = video
        try:
            if path.exists() and not path.is_file():  # a pipe could keep us waiting for ever
                raise InvalidRequestError("bad_input", f"{path} is no regular file")
            with path.open("rb") as file:
                # One byte more than allowed tells, whatever kind of file it is, and reads no more than that.
                video = file.read(allowed + 1)
        except (OSError, ValueError) as exc:  # ValueError: a name with a null byte
            reason = getattr(exc, "strerror", None) or exc
            raise InvalidRequestError("bad_input", f"cannot read the file {path}: {reason}") from exc
        size = f"more than {allowed}" if len(video) > allowed else str(len(video))
    else:
        size = str(len(video))
    if len(video) > allowed:
        raise LimitError("too_large", f"max_video_bytes is {allowed}, the video has {size}; it was not sent")
    _check_message_size(len(video))
    return video


def _check_message_size(size: int) -> None:
    if size > _MAX_MESSAGE_BYTES:
        raise LimitError("too_large", f"a request holds at most {_MAX_MESSAGE_BYTES} bytes, got {size}; send less")
