"""Opens graphs: which engine, and whether the graph is the right one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tubelet.engines.base import Engine, EngineSettings
from tubelet.engines.onnxruntime import OnnxRuntimeEngine
from tubelet.engines.openvino import OpenVinoEngine
from tubelet.spec.engine import EngineName
from tubelet.spec.errors import ContractError
from tubelet.spec.manifest import Contract

__all__ = ["open_engine", "open_graph"]

_ENGINES: dict[EngineName, Callable[[Path, EngineSettings], Engine]] = {
    "openvino": OpenVinoEngine,
    "onnxruntime": OnnxRuntimeEngine,
}


def open_engine(graph: Path, settings: EngineSettings) -> Engine:
    """Loads an ONNX graph on this machine's CPU.

    Raises:
        MachineError: ``missing``: the processor does not have the precision.
    """
    return _ENGINES[settings.engine](graph, settings)


def open_graph(graph: Path, contract: Contract, settings: EngineSettings) -> Engine:
    """Loads a graph of a bundle or of a repository, and makes sure that it belongs to ``contract``.

    Raises:
        ContractError: there is no such graph, or it was exported for another contract.
        MachineError: as `open_engine`.
    """
    if not graph.is_file():
        raise ContractError("contract_mismatch", f"{graph.name} is not there; export the bundle again")
    engine = open_engine(graph, settings)
    found = engine.metadata.get("contract_digest")
    if found != contract.digest:
        raise ContractError(
            "contract_mismatch",
            f"{graph.name} was exported for {found}, but {contract.digest} is expected; "
            "export the bundle and write the repository again",
        )
    return engine
