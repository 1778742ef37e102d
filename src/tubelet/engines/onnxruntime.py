"""ONNX Runtime on the CPU: the portable engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tubelet.engines.base import Arrays, EngineSettings
from tubelet.engines.silence import silence

__all__ = ["OnnxRuntimeEngine", "load_onnxruntime"]


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
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._inputs = [given.name for given in self._session.get_inputs()]
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """See `tubelet.engines.base.Engine.run`."""
        contiguous = {name: np.ascontiguousarray(feeds[name]) for name in self._inputs}
        return dict(zip(self._outputs, self._session.run(self._outputs, contiguous), strict=True))


def load_onnxruntime() -> Any:
    """The package.

    Raises:
        ImportError: it is not installed, or cannot be loaded.
    """
    silence()
    import onnxruntime

    return onnxruntime
