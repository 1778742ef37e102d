"""What multiplies: one small interface over the runtimes that execute an exported graph.

Serving and verification call the same function, so that what was verified is what serves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tubelet.spec.errors import ContractError
from tubelet.spec.manifest import Contract

__all__ = ["Engine", "OnnxRuntimeEngine", "open_engine", "open_graph"]

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
        # Whose videos are scored, and how often, is nobody else's business; read when the package is imported.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
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


def open_graph(graph: Path, contract: Contract, *, threads: int) -> Engine:
    """Loads a graph of a bundle or of a repository, and makes sure that it belongs to ``contract``.

    Raises:
        ContractError: there is no such graph, or it was exported for another contract.
    """
    if not graph.is_file():
        raise ContractError("contract_mismatch", f"{graph.name} is not there; export the bundle again")
    engine = open_engine(graph, threads=threads)
    found = engine.metadata.get("contract_digest")
    if found != contract.digest:
        raise ContractError(
            "contract_mismatch",
            f"{graph.name} was exported for {found}, but {contract.digest} is expected; "
            "export the bundle and write the repository again",
        )
    return engine
