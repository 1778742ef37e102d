"""Runs a TensorRT plan on arrays, as an engine of `tubelet verify`: torch brings memory and streams of the GPU.

To serve, Triton runs plans by itself; this is how they are held against the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt
import torch
from numpy.typing import NDArray
from torch import Tensor

from tubelet.engines.base import Arrays
from tubelet.export.tensorrt_build import Log, done, needed, no_driver
from tubelet.spec.errors import InvalidRequestError
from tubelet.spec.plan import Plan

__all__ = ["PlanEngine"]

_TYPES = {
    trt.DataType.FLOAT: torch.float32,
    trt.DataType.HALF: torch.float16,
    trt.DataType.BF16: torch.bfloat16,
    trt.DataType.INT32: torch.int32,
    trt.DataType.INT64: torch.int64,
    trt.DataType.UINT8: torch.uint8,
}


class PlanEngine:
    """A plan, loaded; one caller at a time."""

    def __init__(self, plan: Path, about: Plan) -> None:
        self.metadata: Mapping[str, str] = {"contract_digest": about.contract_digest}
        self._profiles = about.profiles
        self._log = Log()
        try:
            self._runtime = trt.Runtime(self._log)  # must live as long as the engine
        except TypeError as exc:
            raise no_driver(self._log) from exc
        self._runtime.engine_host_code_allowed = about.options.compatible_versions
        self._engine = needed(
            self._runtime.deserialize_cuda_engine(plan.read_bytes()), f"load {plan.name}; build it again", self._log
        )
        # With memory for the profile that runs, not for all of them.
        strategy = trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        self._context = needed(self._engine.create_execution_context(strategy), f"run {plan.name}", self._log)
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self._inputs = [name for name in names if is_input[name]]
        self._outputs = [name for name in names if not is_input[name]]
        # The default stream would make TensorRT wait for the whole device.
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """See `tubelet.engines.base.Engine.run`.

        Raises:
            InvalidRequestError: ``bad_input``: shapes that no profile of the plan holds.
            MachineError: ``missing``: TensorRT refuses a call.
        """
        with torch.cuda.stream(self._stream):
            inputs = {name: torch.from_numpy(np.ascontiguousarray(feeds[name])).cuda() for name in self._inputs}
            self._choose_profile({name: tuple(tensor.shape) for name, tensor in inputs.items()})
            for name, tensor in inputs.items():
                self._done(self._context.set_input_shape(name, tuple(tensor.shape)), f"take the shape of {name}")
                self._done(self._context.set_tensor_address(name, tensor.data_ptr()), f"take {name}")
            if missing := self._context.infer_shapes():
                raise InvalidRequestError("bad_input", f"the plan needs {', '.join(missing)} too; build it again")
            outputs = {name: self._output(name) for name in self._outputs}
            self._done(self._context.execute_async_v3(self._stream.cuda_stream), "run")
        self._stream.synchronize()
        return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}

    def _choose_profile(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """The first that holds them: the narrowest comes first."""
        index = next((i for i, profile in enumerate(self._profiles) if profile.holds(shapes)), None)
        if index is None:
            raise InvalidRequestError(
                "bad_input", f"no profile of the plan holds {shapes}; build it with more views: tubelet engine"
            )
        stream = self._stream.cuda_stream
        self._done(self._context.set_optimization_profile_async(index, stream), f"take profile {index}")

    def _output(self, name: str) -> Tensor:
        shape = tuple(self._context.get_tensor_shape(name))
        tensor = torch.empty(shape, dtype=_TYPES[self._engine.get_tensor_dtype(name)], device="cuda")
        self._done(self._context.set_tensor_address(name, tensor.data_ptr()), f"give {name}")
        return tensor

    def _done(self, succeeded: bool, what: str) -> None:
        done(succeeded, what, self._log)
