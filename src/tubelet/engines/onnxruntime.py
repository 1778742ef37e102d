"""ONNX Runtime: the portable engine on processors, and with its execution providers an engine on GPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tubelet.engines.base import Arrays, EngineSettings
from tubelet.engines.silence import silence
from tubelet.spec.engine import EngineName
from tubelet.spec.errors import MachineError

__all__ = ["OnnxRuntimeEngine", "load_onnxruntime"]


_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})
_PROVIDERS: dict[EngineName, list[Any]] = {
    "onnxruntime_cuda": [_CUDA],
    "onnxruntime_tensorrt": [("TensorrtExecutionProvider", {}), _CUDA],
}
"""Of the engines on GPUs, the one that is meant first."""


class OnnxRuntimeEngine:
    """A session; with several streams each caller's own thread computes its run."""

    def __init__(self, graph: Path, settings: EngineSettings) -> None:
        onnxruntime = load_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, settings.threads // settings.streams)
        options.inter_op_num_threads = 1
        # A spinning pool takes whole cores from the other steps while it waits.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        providers = _PROVIDERS.get(settings.engine, [])
        if providers:
            # Ten bits of mantissa are not what fp32 says; TensorRT's provider has no option of its own for that.
            os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
            _check_provider(providers[0][0], onnxruntime.get_available_providers())
        self._session = onnxruntime.InferenceSession(graph, options, providers=[*providers, "CPUExecutionProvider"])
        if providers:
            # Without the libraries it needs, a provider makes way for the next one, and nobody is told.
            _check_provider(providers[0][0], self._session.get_providers())
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._inputs = [given.name for given in self._session.get_inputs()]
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """See `tubelet.engines.base.Engine.run`."""
        contiguous = {name: np.ascontiguousarray(feeds[name]) for name in self._inputs}
        return dict(zip(self._outputs, self._session.run(self._outputs, contiguous), strict=True))


def _check_provider(wanted: str, found: Sequence[str]) -> None:
    if wanted not in found:
        raise MachineError(
            "missing",
            f"ONNX Runtime has no {wanted} here, only {', '.join(found)}; pip install onnxruntime-gpu in the place of "
            "onnxruntime, with the CUDA, cuDNN and TensorRT that it is built for",
        )


def load_onnxruntime() -> Any:
    """The package.

    Raises:
        ImportError: it is not installed, or cannot be loaded.
    """
    silence()
    import onnxruntime

    return onnxruntime
