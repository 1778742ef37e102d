"""`VideoClassifier`: classifies videos through a running server."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

from tubelet.clients.results import AS_LABELS, Classification, read_classification
from tubelet.clients.wire import (
    CHANNEL_OPTIONS,
    check_url,
    is_unknown_model,
    request_parameters,
    translated_errors,
)
from tubelet.spec.bounds import WAYS_IN
from tubelet.spec.ensemble import EnsembleContract, decode_contract
from tubelet.spec.errors import ContractError, InvalidRequestError, LimitError, RecipeError, UnavailableError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.strict import decode
from tubelet.spec.tensors import answer_names

__all__ = ["DEFAULT_URL", "VideoClassifier"]

DEFAULT_URL = "127.0.0.1:8001"
"""Triton's gRPC port on this machine."""

_QUESTION_TIMEOUT_S = 10.0
"""For questions about models, which need no computing."""
_GRACE_S = 1.0
"""The server ends work at the deadline and says so; the client waits this much longer for that answer."""
_MAX_MESSAGE_BYTES = 2**31 - 2**16
"""A protobuf message holds less than 2 GiB; the rest is left for names and parameters."""


class VideoClassifier:
    """One model on one server; may be used from several threads at a time.

    The model's contract and limits are read once, when it is made. Close it, or use it in a ``with``.

    Args:
        url: ``HOST:PORT`` of the server's gRPC.
        model: public name of the model; None: the one model that is served, if it is one.
        expect_digest: digest of the contract that the caller was built for.
        timeout_s: time for a call that names no ``deadline_s``.

    Raises:
        ContractError: the served contract is damaged, or not the one that is expected.
        InvalidRequestError: ``bad_parameter``, there is no such model, or several and none was named.
        UnavailableError: no server answers, or no model is ready.
    """

    contract: Contract | EnsembleContract
    """What can be observed of the model: classes, protocols, shapes."""
    limits: Limits
    """What the server accepts in one request."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        expect_digest: str | None = None,
        timeout_s: float = 300.0,
    ) -> None:
        self._timeout_s = timeout_s
        # tritonclient's unary calls hold no state of their own, and a gRPC channel may be shared between threads.
        self._triton = InferenceServerClient(check_url(url), channel_args=list(CHANNEL_OPTIONS))
        try:
            name = self._only_model() if model is None else model
            self.contract, self.limits = self._read_model(name)
            if expect_digest not in (None, self.contract.digest):
                raise ContractError(
                    "contract_mismatch",
                    f"model {name} has contract {self.contract.digest}, expected {expect_digest}; nothing was sent",
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls that are under way end with `UnavailableError`."""
        self._triton.close()

    def classify(
        self,
        video: bytes | Path,
        *,
        protocol: str | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        deadline_s: float | None = None,
        top: int = 5,
    ) -> Classification:
        """Classifies one encoded video.

        Args:
            video: the bytes of a video file, or where it lies.
            protocol: one of ``contract.protocols``; None: the model's default.
            start_s: start of the part that counts, in seconds from the first frame; None: the start.
            end_s: end of that part; None: the end of the video.
            deadline_s: how long the answer is worth having; the server stops working on it then. At most
                ``limits.default_deadline_s``.
            top: number of labels in the answer, at most C.

        Raises:
            InvalidRequestError: a parameter does not fit, or the file cannot be read.
            InvalidVideoError: nothing usable comes out of the video.
            LimitError: a limit of the server is exceeded; too large a file is not sent at all.
            OverloadedError: the queue is full; try again later.
            DeadlineError: the time is over.
            UnavailableError: the server or the model is not there, or was lost meanwhile.
            ContractError: the server's answer does not fit the contract.
        """
        data = self._read_video(video)
        tensor = InferInput("VIDEO", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([data], dtype=np.object_))
        parameters = request_parameters(
            protocol=protocol, start_s=start_s, end_s=end_s, deadline_s=self._deadline(deadline_s)
        )
        return self._infer(self.contract.name, [tensor], parameters=parameters, top=top)

    def classify_frames(
        self,
        frames: NDArray[np.uint8],
        *,
        fps: float,
        protocol: str | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        deadline_s: float | None = None,
        top: int = 5,
    ) -> Classification:
        """Classifies decoded frames.

        Args:
            frames: uint8 ``[N, h, w, 3]``, RGB.
            fps: frames per second.
            protocol: as for `classify`, like the arguments after it.
            start_s: see `classify`.
            end_s: see `classify`.
            deadline_s: see `classify`.
            top: see `classify`.

        Raises:
            TubeletError: as `classify`.
        """
        if isinstance(self.contract, EnsembleContract):
            raise InvalidRequestError("bad_input", f"{self.contract.name} takes encoded videos only")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise InvalidRequestError(
                "bad_input", f"frames must be uint8 [N, h, w, 3], got {frames.dtype} {list(frames.shape)}"
            )
        _check_message_size(frames.nbytes)
        tensors = [InferInput("FRAMES", list(frames.shape), "UINT8"), InferInput("FPS", [1], "FP32")]
        tensors[0].set_data_from_numpy(frames)
        tensors[1].set_data_from_numpy(np.array([fps], dtype=np.float32))
        parameters = request_parameters(
            protocol=protocol, start_s=start_s, end_s=end_s, deadline_s=self._deadline(deadline_s)
        )
        return self._infer(f"{self.contract.name}_frames", tensors, parameters=parameters, top=top)

    def _deadline(self, deadline_s: float | None) -> float:
        # More than this the server grants to nobody, so waiting longer for it would be in vain.
        return min(self._timeout_s if deadline_s is None else deadline_s, self.limits.default_deadline_s)

    def _infer(self, model: str, inputs: list[InferInput], *, parameters: dict[str, str], top: int) -> Classification:
        if top < 1:
            raise InvalidRequestError("bad_parameter", f"top must be at least 1, got {top}")
        top = min(top, self.contract.num_classes)
        outputs = [
            InferRequestedOutput(name, class_count=top if name in AS_LABELS else 0)
            for name in answer_names(self.contract)
        ]
        deadline_ms = float(parameters["deadline_ms"])
        started = time.perf_counter()
        with translated_errors():
            answer = self._triton.infer(
                model,
                inputs,
                outputs=outputs,
                parameters=parameters,
                timeout=max(1, int(deadline_ms * 1000)),
                client_timeout=deadline_ms / 1000 + _GRACE_S,
            )
        round_trip_ms = (time.perf_counter() - started) * 1000
        return read_classification(answer, contract=self.contract, top=top, round_trip_ms=round_trip_ms)

    def _read_video(self, video: bytes | Path) -> bytes:
        allowed = self.limits.max_video_bytes
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

    def _only_model(self) -> str:
        models = self._public_models()
        if not models:
            raise UnavailableError("backend_lost", "the server is there, but no model is ready; try again soon")
        if len(models) > 1:
            raise InvalidRequestError("bad_parameter", f"several models are served, name one of {', '.join(models)}")
        return models[0]

    def _public_models(self) -> list[str]:
        """Names of the models that are ready and meant for callers, in alphabetical order."""
        with translated_errors():
            statistics = self._triton.get_inference_statistics(client_timeout=_QUESTION_TIMEOUT_S)
        names = sorted({model.name for model in statistics.model_stats if not model.name.endswith(WAYS_IN)})
        return [name for name in names if _is_public(self._config(name))]

    def _config(self, model: str) -> Any:
        with translated_errors():
            return self._triton.get_model_config(model, client_timeout=_QUESTION_TIMEOUT_S).config

    def _read_model(self, model: str) -> tuple[Contract | EnsembleContract, Limits]:
        try:
            config = self._config(model)
        except UnavailableError as exc:
            if not is_unknown_model(exc) or not (models := self._public_models()):
                raise
            raise InvalidRequestError(
                "bad_parameter", f"there is no model {model!r}; the server has {', '.join(models)}"
            ) from exc
        if not _is_public(config):
            raise InvalidRequestError("bad_parameter", f"{model!r} is no model of tubelet, or an inner step of one")
        return _read_parameters(model, {name: value.string_value for name, value in config.parameters.items()})


def _is_public(config: Any) -> bool:
    return config.platform == "ensemble" and not config.name.endswith(WAYS_IN) and "contract" in config.parameters


def _read_parameters(model: str, parameters: dict[str, str]) -> tuple[Contract | EnsembleContract, Limits]:
    try:
        contract = decode_contract(json.loads(parameters["contract"]), where="contract")
        limits = decode(Limits, json.loads(parameters["limits"]), where="limits")
    except (KeyError, ValueError, RecipeError) as exc:
        raise ContractError(
            "contract_mismatch",
            f"the contract or the limits of model {model} cannot be read ({exc}); "
            "use the client of the server's version",
        ) from exc
    if (said := parameters.get("contract_digest")) != contract.digest:
        raise ContractError(
            "contract_mismatch",
            f"model {model} says its contract is {said}, but it gives {contract.digest}; write the repository again",
        )
    return contract, limits


def _check_message_size(size: int) -> None:
    if size > _MAX_MESSAGE_BYTES:
        raise LimitError("too_large", f"a request holds at most {_MAX_MESSAGE_BYTES} bytes, got {size}; send less")
