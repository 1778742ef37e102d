"""`VideoClassifier`: classifies videos through a running server."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

from tubelet.clients.inputs import feature_tensors, frame_tensors, video_tensors
from tubelet.clients.results import AS_LABELS, Classification, read_classification
from tubelet.clients.served import only_model, read_model
from tubelet.clients.wire import CHANNEL_OPTIONS, check_url, request_parameters, translated_errors
from tubelet.spec.ensemble import EnsembleContract
from tubelet.spec.errors import ContractError, InvalidRequestError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.tensors import WayIn, answer_names, ways_in

__all__ = ["DEFAULT_URL", "VideoClassifier"]

DEFAULT_URL = "127.0.0.1:8001"
"""Triton's gRPC port on this machine."""

_GRACE_S = 1.0
"""The server ends work at the deadline and says so; the client waits this much longer for that answer."""


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
            name = only_model(self._triton) if model is None else model
            self.contract, self.limits = read_model(self._triton, name)
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
        chunked: bool = False,
        with_features: bool = False,
    ) -> Classification:
        """Classifies one encoded video.

        Args:
            video: the bytes of a video file, or where it lies.
            protocol: one that the contract allows; None: the model's default.
            start_s: start of the part that counts, in seconds from the first frame; None: the start.
            end_s: end of that part; None: the end of the video.
            deadline_s: how long the answer is worth having; the server stops working on it then. At most
                ``limits.default_deadline_s``.
            top: number of labels in the answer, at most C.
            chunked: whether the server is to keep no more than a batch of frames at a time, for long videos in many
                frames; only of models that take any number of frames (VTN). The answer is the same.
            with_features: whether the answer is to bring what `classify_features` takes; of the same models.

        Raises:
            InvalidRequestError: a parameter does not fit, the model does not have what was asked for, or the file
                cannot be read.
            InvalidVideoError: nothing usable comes out of the video.
            LimitError: a limit of the server is exceeded; too large a file is not sent at all.
            OverloadedError: the queue is full; try again later.
            DeadlineError: the time is over.
            UnavailableError: the server or the model is not there, or was lost meanwhile.
            ContractError: the server's answer does not fit the contract.
        """
        parameters = request_parameters(
            protocol=protocol, start_s=start_s, end_s=end_s, deadline_s=self._deadline(deadline_s)
        )
        way: WayIn = "chunked" if chunked else "video"
        name, outputs = self._way(way, with_features=with_features)
        return self._infer(name, video_tensors(video, self.limits), outputs=outputs, parameters=parameters, top=top)

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
        with_features: bool = False,
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
            with_features: see `classify`.

        Raises:
            TubeletError: as `classify`.
        """
        parameters = request_parameters(
            protocol=protocol, start_s=start_s, end_s=end_s, deadline_s=self._deadline(deadline_s)
        )
        name, outputs = self._way("frames", with_features=with_features)
        return self._infer(name, frame_tensors(frames, fps=fps), outputs=outputs, parameters=parameters, top=top)

    def classify_features(
        self,
        features: NDArray[np.float32],
        positions: NDArray[np.int32] | None = None,
        *,
        deadline_s: float | None = None,
        top: int = 5,
    ) -> Classification:
        """Classifies a video whose features an earlier answer brought; nothing is decoded or encoded again.

        Args:
            features: float32 ``[V, n, D]``: `Classification.features`.
            positions: int32 ``[V, n]``: `Classification.positions`; needed where that is not None.
            deadline_s: see `classify`.
            top: see `classify`.

        Raises:
            TubeletError: as `classify`.
        """
        name, outputs = self._way("features")
        # No other contract has this way in.
        tensors = feature_tensors(features, positions, cast(Contract, self.contract))
        parameters = request_parameters(protocol=None, start_s=None, end_s=None, deadline_s=self._deadline(deadline_s))
        return self._infer(name, tensors, outputs=outputs, parameters=parameters, top=top)

    def _deadline(self, deadline_s: float | None) -> float:
        # More than this the server grants to nobody, so waiting longer for it would be in vain.
        return min(self._timeout_s if deadline_s is None else deadline_s, self.limits.default_deadline_s)

    def _way(self, way: WayIn, *, with_features: bool = False) -> tuple[str, tuple[str, ...]]:
        """The public name of a way into the model, and what is asked for there."""
        if isinstance(self.contract, EnsembleContract):
            if way != "video" or with_features:
                raise InvalidRequestError("bad_input", f"{self.contract.name} takes encoded videos only")
            return self.contract.name, answer_names(self.contract)
        ways = ways_in(self.contract)
        if "features" not in ways and (way not in ways or with_features):
            raise InvalidRequestError(
                "bad_input", f"{self.contract.name} takes whole clips only: no chunks, no features"
            )
        name, _ = ways[way]
        return name, answer_names(self.contract, way, with_features=with_features)

    def _infer(
        self,
        model: str,
        inputs: list[InferInput],
        *,
        outputs: tuple[str, ...],
        parameters: dict[str, str],
        top: int,
    ) -> Classification:
        if top < 1:
            raise InvalidRequestError("bad_parameter", f"top must be at least 1, got {top}")
        top = min(top, self.contract.num_classes)
        deadline_ms = float(parameters["deadline_ms"])
        started = time.perf_counter()
        with translated_errors():
            answer = self._triton.infer(
                model,
                inputs,
                outputs=[InferRequestedOutput(name, class_count=top if name in AS_LABELS else 0) for name in outputs],
                parameters=parameters,
                timeout=max(1, int(deadline_ms * 1000)),
                client_timeout=deadline_ms / 1000 + _GRACE_S,
            )
        round_trip_ms = (time.perf_counter() - started) * 1000
        return read_classification(answer, contract=self.contract, asked=outputs, top=top, round_trip_ms=round_trip_ms)
