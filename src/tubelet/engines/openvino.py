"""OpenVINO on the CPU: the same ONNX files, with bf16 where the processor has it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tubelet.engines.base import Arrays, EngineSettings
from tubelet.engines.silence import silence

__all__ = ["OpenVinoEngine", "has_bf16", "load_openvino"]

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""How exact the operations are that stay in floating point."""


class OpenVinoEngine:
    """A compiled model; each calling thread has an infer request of its own."""

    def __init__(self, graph: Path, settings: EngineSettings) -> None:
        openvino = load_openvino()
        core = openvino.Core()
        model = core.read_model(graph)
        self.metadata: Mapping[str, str] = _metadata(model)
        hints = {
            "INFERENCE_PRECISION_HINT": _HINTS[settings.precision],
            "INFERENCE_NUM_THREADS": settings.threads,
            "NUM_STREAMS": settings.streams,
            # Other steps share the cores; who is pinned cannot make way.
            "ENABLE_CPU_PINNING": False,
        }
        self._tensor = openvino.Tensor
        self._compiled = core.compile_model(model, "CPU", hints)
        self._inputs = [port.any_name for port in self._compiled.inputs]
        self._outputs = [port.any_name for port in self._compiled.outputs]
        self._local = threading.local()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """See `tubelet.engines.base.Engine.run`."""
        request = self._request()
        # OpenVINO reads these in place.
        arrays = {name: np.ascontiguousarray(feeds[name]) for name in self._inputs}
        for name, array in arrays.items():
            request.set_tensor(name, self._tensor(array, shared_memory=True))
        request.infer(share_outputs=True)
        # The request writes its next outputs over these.
        return {name: np.array(request.get_tensor(name).data) for name in self._outputs}

    def _request(self) -> Any:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        return self._local.request


def load_openvino() -> Any:
    """The package.

    Raises:
        ImportError: it is not installed, or cannot be loaded.
    """
    silence()
    import openvino

    return openvino


def has_bf16() -> bool:
    """Whether this processor multiplies bf16, as OpenVINO sees it."""
    return "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _metadata(model: Any) -> dict[str, str]:
    """The properties of the ONNX file, which OpenVINO keeps under ``framework``."""
    if not model.has_rt_info(["framework"]):
        return {}
    return {name: str(value) for name, value in model.get_rt_info(["framework"]).value.items()}
