"""Who a bundle's graphs and plans are."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tubelet.spec.engine import EngineName, Precision, graph_file, plan_file, target_of
from tubelet.spec.errors import ContractError
from tubelet.spec.manifest import Contract
from tubelet.spec.tensors import GRAPH_STEPS, step_tensors

__all__ = ["file_sha256", "graph_sha256", "graphs_sha256"]


def graphs_sha256(bundle: Path, contract: Contract, precision: Precision, engine: EngineName = "openvino") -> str:
    """Digest of what an engine runs at a precision, names and weights included, wherever the weights lie.

    The engines of target ``cpu`` run the same files, and so do those of target ``gpu`` but TensorRT, which runs plans.

    Raises:
        ContractError: a graph or a plan is missing.
    """
    digest = hashlib.sha256()
    for step in (step for step in step_tensors(contract) if step in GRAPH_STEPS):
        name = graph_file(step, precision, target_of(engine))
        if engine == "tensorrt" and step in ("encoder", "temporal"):
            name = plan_file(step, precision)
        digest.update(_lines(bundle, name))
    return digest.hexdigest()


def graph_sha256(bundle: Path, name: str) -> str:
    """Digest of one graph and its weights, wherever they lie; ``name`` is its path from the bundle's folder.

    Raises:
        ContractError: it is missing.
    """
    return hashlib.sha256(_lines(bundle, name)).hexdigest()


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _lines(bundle: Path, name: str) -> bytes:
    """A line for each file of a graph: its name and its SHA-256."""
    if not (bundle / name).is_file():
        remedy = "run tubelet engine" if name.startswith("gpu/") else "export the bundle again"
        raise ContractError("contract_mismatch", f"{name} is not there; {remedy}")
    lines = []
    for file in (bundle / name, bundle / f"{name}.data"):
        if file.is_file():
            lines.append(f"{file.name} {file_sha256(file)}\n")
    return "".join(lines).encode()
