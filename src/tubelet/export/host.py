"""The GPU target's graphs on this machine's processor: what their conversion costs, where no GPU is to say so.

ONNX Runtime computes float16 on processors in float32, between casts, and has hardly a kernel for bfloat16. So the same
is done to bfloat16 here: every node computes in float32 and its outputs are rounded. A tensor core sums in float32 and
rounds likewise.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from tubelet.engines.base import Engine, EngineSettings
from tubelet.engines.open import open_graph
from tubelet.export.stored import read_graph, write_graph
from tubelet.spec.errors import ContractError
from tubelet.spec.manifest import Contract

__all__ = ["compute_in_float32", "open_on_host"]


def open_on_host(graph: Path, contract: Contract) -> Engine:
    """Loads a graph of the GPU target with ONNX Runtime, on all of this machine's cores.

    Raises:
        ContractError: there is no such graph, or it was made for another contract.
    """
    # The graph has the precision; the engine is told of none.
    settings = EngineSettings.of_mode("onnxruntime", "fp32", "latency")
    if graph.parent.name == "gpu" and not graph.is_file():
        raise ContractError("contract_mismatch", f"gpu/{graph.name} is not there; run tubelet engine with --graph-only")
    model = read_graph(graph) if graph.is_file() else None
    if model is None or not _has_bfloat16(model.graph):
        return open_graph(graph, contract, settings)
    compute_in_float32(model.graph)
    with TemporaryDirectory() as folder:
        wide = Path(folder) / graph.name
        write_graph(model, wide, beside=True)
        return open_graph(wide, contract, settings)


def compute_in_float32(graph: ir.Graph) -> None:
    """Puts casts around every node of a bfloat16 graph, in place; what is rounded stays rounded."""
    for node in list(graph):
        if node.op_type == "Cast":
            continue
        for i, value in enumerate(node.inputs):
            if value is not None and value.dtype == ir.DataType.BFLOAT16:
                cast = _cast(value, ir.DataType.FLOAT)
                graph.insert_before(node, cast)
                node.replace_input_with(i, cast.outputs[0])
        for output in node.outputs:
            if output.dtype == ir.DataType.BFLOAT16:
                users = list(output.uses())
                output.dtype = ir.DataType.FLOAT
                cast = _cast(output, ir.DataType.BFLOAT16)
                graph.insert_after(node, cast)
                for use in users:
                    use.node.replace_input_with(use.idx, cast.outputs[0])


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], attributes={"to": dtype.value})
    node.outputs[0].dtype, node.outputs[0].shape = dtype, value.shape
    return node


def _has_bfloat16(graph: ir.Graph) -> bool:
    return any(value.dtype == ir.DataType.BFLOAT16 for value in graph.initializers.values())
