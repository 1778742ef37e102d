"""What all steps do alike: read their contract, answer each request by itself, count errors."""

from __future__ import annotations

import json
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import triton_python_backend_utils as triton
from numpy.typing import NDArray

from tubelet.engines.base import Engine, EngineSettings
from tubelet.engines.open import open_graph
from tubelet.server.metrics import StepMetrics
from tubelet.spec.engine import Running, Target
from tubelet.spec.ensemble import EnsembleContract
from tubelet.spec.errors import (
    ContractError,
    DeadlineError,
    InternalError,
    InvalidRequestError,
    InvalidVideoError,
    LimitError,
    TubeletError,
)
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.protocol import ANY_FULL
from tubelet.spec.strict import decode

__all__ = [
    "Arrays",
    "Call",
    "SingleStep",
    "Step",
    "best_labels",
    "check_caller",
    "check_deadline",
    "read_inputs",
    "text_tensor",
]

Arrays = Mapping[str, NDArray[Any]]

NUM_BEST_LABELS = 5

_CLIENT_FAULTS = (InvalidRequestError, InvalidVideoError, LimitError)


class Step(ABC):
    """One step of a model; Triton makes an object of it in each of the step's processes."""

    name: str
    contract_type: ClassVar[type[Contract | EnsembleContract]] = Contract
    contract: Contract
    limits: Limits
    target: Target = "cpu"
    """Where the steps between the decoder and the answer run; it decides which tensors pass between them."""
    parameters: Mapping[str, str]
    """What `tubelet repository` wrote for this step."""
    metrics: StepMetrics
    folder: Path
    """The version's folder in the repository, where the step's graph lies."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Triton's entry: reads what `tubelet repository` wrote into the step's configuration.

        Raises:
            ContractError: the configuration's contract and digest disagree.
        """
        parameters = json.loads(args["model_config"])["parameters"]
        values = {key: value["string_value"] for key, value in parameters.items()}
        contract = decode(self.contract_type, json.loads(values["contract"]), where="contract")
        self.contract = cast(Contract, contract)  # a step of several models says so in its own annotation
        if self.contract.digest != values["contract_digest"]:
            raise ContractError("contract_mismatch", "the repository was edited; run tubelet repository again")
        self.limits = decode(Limits, json.loads(values["limits"]), where="limits")
        self.parameters = values
        self.target = "gpu" if values.get("target") == "gpu" else "cpu"
        self.folder = Path(args["model_repository"]) / args["model_version"]
        self.metrics = StepMetrics(self.contract.name, step=self.name)
        self.open()

    @cached_property
    def contract_digest(self) -> str:
        """By which contract this step works; answers say it."""
        return self.contract.digest

    @property
    def running(self) -> Running:
        """How the model runs; of the steps that have a graph."""
        return decode(Running, json.loads(self.parameters["running"]), where="running")

    def open_graph(self, filename: str, settings: EngineSettings) -> Engine:
        """Loads a graph that lies beside the step.

        Raises:
            ContractError: the graph belongs to another contract.
            MachineError: ``missing``: the processor does not have the precision.
        """
        return open_graph(self.folder / filename, self.contract, settings)

    def open(self) -> None:  # noqa: B027  most steps have nothing to open
        """Loads what the step needs beyond its contract."""

    def check_views(self, num_views: int) -> None:
        """Holds the limit on views for a step that was called without the sample step.

        Raises:
            LimitError: ``too_many_views``.
            InvalidRequestError: ``bad_input``: there is none.
        """
        if num_views > self.limits.max_views:
            raise LimitError("too_many_views", f"{num_views} views came, max_views is {self.limits.max_views}")
        if num_views == 0:
            raise InvalidRequestError("bad_input", "at least one view is expected, got none")

    @property
    def most_units_per_clip(self) -> int:
        """Units of the longest clip that a protocol of the model can ask for."""
        any_number = self.limits.max_units if ANY_FULL in self.contract.protocols else 0
        return max(self.contract.most_units_per_clip, any_number)

    def check_units(self, clip_units: NDArray[np.int32], *, num_units: int) -> None:
        """Makes sure that clips name units that are there.

        Raises:
            InvalidRequestError: ``bad_input``.
        """
        if not clip_units.size or clip_units.min() < 0 or clip_units.max() >= num_units:
            raise InvalidRequestError("bad_input", f"CLIP_UNITS must name units from 0 to {num_units - 1}")

    @abstractmethod
    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's entry: one answer for each request; a request that fails does so alone."""

    def answer(self, compute: Callable[[], Arrays]) -> Any:
        """Turns outputs, or the error that computing them raised, into a Triton response."""
        try:
            outputs = [triton.Tensor(name, array) for name, array in compute().items()]
            return triton.InferenceResponse(outputs)
        except TubeletError as exc:
            error = exc
        except Exception:  # noqa: BLE001  what leaves `execute` would fail every request of the batch
            triton.Logger.log_error(f"{self.contract.name}_{self.name}: {traceback.format_exc()}")
            error = InternalError("internal", f"the {self.name} step failed; the server's log has the reason")
        self.metrics.count_error(error.code)
        return triton.InferenceResponse(error=triton.TritonError(str(error), _triton_code(error)))


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as a step sees it."""

    inputs: Arrays
    parameters: Mapping[str, object]
    wanted: frozenset[str]
    """Names of the outputs that somebody takes."""
    is_cancelled: Callable[[], bool]
    """Whether Triton knows by now that the caller has gone, see `check_caller`."""


class SingleStep(Step):
    """A step that takes one request after the other."""

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's entry, see `Step.execute`."""
        with self.metrics.running(len(requests)):
            return [self.answer(partial(self._run, request)) for request in requests]

    @abstractmethod
    def run(self, call: Call) -> Arrays:
        """Computes one request's outputs."""

    def _run(self, request: Any) -> Arrays:
        check_caller(request.is_cancelled)
        parameters = json.loads(request.parameters() or "{}")
        wanted = frozenset(request.requested_output_names())
        return self.run(Call(read_inputs(request), parameters, wanted, request.is_cancelled))


def best_labels(probabilities: NDArray[np.float32], labels: Sequence[str]) -> dict[str, float]:
    """The most probable labels with their probabilities, best first: for those who read the report alone."""
    best = np.argsort(-probabilities, kind="stable")[:NUM_BEST_LABELS]
    return {labels[index]: round(float(probabilities[index]), 6) for index in best}


def check_deadline(deadline: float) -> None:
    """Refuses work whose time is over; ``deadline`` is a `time.monotonic` value, 0: none (warm-up).

    Raises:
        DeadlineError: the moment has passed.
    """
    if 0 < deadline < time.monotonic():
        raise DeadlineError("deadline_exceeded", "the request's time is over, work on it has stopped")


def check_caller(is_cancelled: Callable[[], bool]) -> None:
    """Refuses work that nobody waits for.

    Triton 2.51 tells it of gRPC calls, and of an ensemble to those steps only that begin afterwards; a step that runs
    already has nothing but the deadline (docs/adr/0016-ways-in.md).

    Raises:
        DeadlineError: ``cancelled``.
    """
    if is_cancelled():
        raise DeadlineError("cancelled", "the caller has gone, work on the request has stopped")


def read_inputs(request: Any) -> dict[str, NDArray[Any]]:
    """A Triton request's tensors by name; optional ones that did not come are left out."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def text_tensor(text: str) -> NDArray[np.object_]:
    """A BYTES tensor of shape ``[1]``."""
    return np.array([text.encode()], dtype=np.object_)


def _triton_code(error: TubeletError) -> Any:
    """Triton has no DEADLINE_EXCEEDED; like its own expired queue timeouts, ours are UNAVAILABLE."""
    if isinstance(error, _CLIENT_FAULTS):
        return triton.TritonError.INVALID_ARG
    if isinstance(error, InternalError):
        return triton.TritonError.INTERNAL
    return triton.TritonError.UNAVAILABLE
