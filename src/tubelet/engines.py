"""What multiplies: one small interface over the runtimes that execute an exported graph.

Serving and verification call the same function, so that what was verified is what serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Engine", "OnnxRuntimeEngine", "open_engine"]

Arrays = dict[str, NDArray[Any]]


class Engine(Protocol):
    """A graph that is ready to run."""

    metadata: Mapping[str, str]
    """What the exporter wrote into the graph, ``contract_digest`` among it."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """Runs the graph once; arrays by tensor name in, arrays by tensor name out."""
        ...


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU: the portable engine."""

    def __init__(self, graph: Path, *, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A spinning pool takes whole cores from the other steps while it waits.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """Runs the graph once; arrays by tensor name in, arrays by tensor name out."""
        contiguous = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        return dict(zip(self._outputs, self._session.run(self._outputs, contiguous), strict=True))


def open_engine(graph: Path, *, threads: int) -> Engine:
    """Loads an ONNX graph on this machine's CPU with ``threads`` threads."""
    return OnnxRuntimeEngine(graph, threads=threads)
