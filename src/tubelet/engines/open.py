"""Opens graphs: which engine, and whether the graph is the right one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tubelet.engines.base import Engine, EngineSettings
from tubelet.engines.gpu import find_gpu, find_tensorrt
from tubelet.engines.onnxruntime import OnnxRuntimeEngine, load_onnxruntime
from tubelet.engines.openvino import OpenVinoEngine, has_bf16, load_openvino
from tubelet.spec.engine import SERVED_BY, EngineName, Precision, target_of
from tubelet.spec.errors import ContractError, MachineError, TubeletError
from tubelet.spec.manifest import Contract

__all__ = ["check_machine", "open_engine", "open_graph"]

_ENGINES: dict[EngineName, Callable[[Path, EngineSettings], Engine]] = {
    "openvino": OpenVinoEngine,
    "onnxruntime": OnnxRuntimeEngine,
    "onnxruntime_host": OnnxRuntimeEngine,
    "onnxruntime_cuda": OnnxRuntimeEngine,
    "onnxruntime_tensorrt": OnnxRuntimeEngine,
}
"""Plans have none here: Triton runs them, and `tubelet.export.gpu_engines` to verify them."""
_PACKAGES: dict[EngineName, Callable[[], object]] = {
    "openvino": load_openvino,
    "onnxruntime": load_onnxruntime,
    "onnxruntime_host": load_onnxruntime,
    "onnxruntime_cuda": load_onnxruntime,
    "onnxruntime_tensorrt": load_onnxruntime,
    "tensorrt": find_tensorrt,
}


def check_machine(engine: EngineName, precision: Precision) -> None:
    """Makes sure that an engine is installed, with a GPU where it needs one, and that this processor has a precision.

    It is about engines in our own processes; what a Triton server has is another question.

    Raises:
        MachineError: ``missing``, with the remedy.
    """
    try:
        _PACKAGES[engine]()
    except ImportError as exc:
        raise MachineError("missing", f"{engine} cannot be loaded ({exc}); pip install 'tubelet[server]'") from exc
    if engine in SERVED_BY["gpu"]:
        find_gpu()
    if target_of(engine) == "cpu" and precision == "bf16" and not has_bf16():
        raise MachineError(
            "missing",
            "this processor has no bf16 (avx512_bf16 or amx_bf16 of /proc/cpuinfo); take fp32 or int8: "
            "tubelet repository --precision, tubelet verify --precision",
        )


def open_engine(graph: Path, settings: EngineSettings) -> Engine:
    """Loads an ONNX graph, on this machine's CPU or, where that is what the engine is, its GPU.

    Raises:
        MachineError: as `check_machine`.
        ContractError: the file is no graph that the engine can read.
    """
    check_machine(settings.engine, settings.precision)
    try:
        return _ENGINES[settings.engine](graph, settings)
    except TubeletError:
        raise
    except Exception as exc:  # engines raise what they like
        raise ContractError(
            "contract_mismatch", f"{settings.engine} cannot load {graph.name}; export the bundle again ({_first(exc)})"
        ) from exc


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


def _first(exc: Exception) -> str:
    """What an engine says first, on one line and without the machine's folders."""
    words = str(exc).split()[:30]
    return " ".join(word.rpartition("/")[2] for word in words)
