"""The engines of target ``gpu``, as `tubelet verify` runs them: plans, or ONNX Runtime with a provider for GPUs.

Triton serves without this module; it gives the numbers by which a plan or a graph may be served. ``onnxruntime_host``
needs no GPU: it says what a graph's conversion costs.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from tubelet.checkpoints.load import sha256_file
from tubelet.engines.base import Engine, EngineSettings, processor_name
from tubelet.engines.gpu import find_gpu, find_tensorrt
from tubelet.engines.onnxruntime import load_onnxruntime
from tubelet.engines.open import check_machine, open_graph
from tubelet.export.digests import graph_sha256
from tubelet.export.host import open_on_host
from tubelet.spec.engine import EngineName, Precision, graph_file, plan_file, target_of
from tubelet.spec.errors import ContractError, MachineError
from tubelet.spec.manifest import Contract
from tubelet.spec.plan import Plan, PlanStep, check_plan_fits
from tubelet.spec.tensors import GRAPH_STEPS, Step, step_tensors

__all__ = ["describe_engine", "open_gpu_engines"]


def open_gpu_engines(bundle: Path, contract: Contract, engine: EngineName, precision: Precision) -> dict[Step, Engine]:
    """Loads what a bundle has for an engine of target ``gpu``.

    With ``tensorrt`` the steps without a plan run on ONNX Runtime on the processor: they move bytes and add up views,
    and are judged on their own.

    Raises:
        ContractError: a graph or a plan is missing, or belongs to another bundle, TensorRT or GPU.
        MachineError: ``missing``: no TensorRT, no provider, or no GPU.
    """
    check_machine(engine, precision)
    steps = [step for step in step_tensors(contract) if step in GRAPH_STEPS]
    return {step: _open(bundle, contract, step, engine, precision) for step in steps}


def describe_engine(engine: EngineName) -> tuple[str, str]:
    """The version of an engine that is installed, and the name of what it computes on.

    Raises:
        MachineError: ``missing``: it is not installed, or there is no GPU.
    """
    if target_of(engine) == "cpu":
        return version(engine), processor_name()
    if engine == "tensorrt":
        return find_tensorrt(), find_gpu().name
    # Its package has one of several names.
    return load_onnxruntime().__version__, processor_name() if engine == "onnxruntime_host" else find_gpu().name


def _open(bundle: Path, contract: Contract, step: Step, engine: EngineName, precision: Precision) -> Engine:
    graph = bundle / graph_file(step, precision, "gpu")
    if engine == "tensorrt" and (step == "encoder" or step == "temporal"):
        return _open_plan(bundle, contract, step, precision)
    if engine in ("tensorrt", "onnxruntime_host"):
        return open_on_host(graph, contract)
    settings = EngineSettings.of_mode(engine, precision if step == "encoder" else "fp32", "latency")
    return open_graph(graph, contract, settings)


def _open_plan(bundle: Path, contract: Contract, step: PlanStep, precision: Precision) -> Engine:
    path = bundle / plan_file(step, precision)
    about = Plan.load(path)
    check_plan_fits(
        about,
        contract_digest=contract.digest,
        graph_sha256=graph_sha256(bundle, about.graph),
        tensorrt=find_tensorrt(),
        gpu=find_gpu(),
    )
    if sha256_file(path) != about.plan_sha256:
        raise ContractError(
            "contract_mismatch", f"{path.name} is not the plan that {path.name}.json is about; build it again"
        )
    import torch

    if not torch.cuda.is_available():
        raise MachineError("missing", "torch sees no GPU; install its CUDA build, in the version of constraints.txt")
    from tubelet.export.tensorrt_run import PlanEngine

    return PlanEngine(path, about)
