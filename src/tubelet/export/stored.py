"""Graphs as they lie in bundles: weights in the file, or beside it in ``<graph>.data``.

onnx and onnx_ir read weights beside a graph too, but refuse a file of which there is another hard link, as
`tubelet repository` and every step that rewrites a bundle make them. Here it is the name that must be the right one.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from tubelet.spec.errors import ContractError

__all__ = ["read_graph", "read_proto", "write_graph"]


def read_graph(path: Path) -> ir.Model:
    """Loads a graph for onnx_ir; weights beside it are mapped into memory, and read when somebody wants them.

    Raises:
        ContractError: the file is no graph, or its weights are not where a bundle has them.
    """
    model = ir.from_proto(read_proto(path, weights=False))
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                place = _weights(path, str(tensor.location), end=(tensor.offset or 0) + (tensor.length or 0))
                value.const_value = ir.ExternalTensor(
                    # Without a folder of its own a tensor's file may have other links.
                    str(place.absolute()),
                    tensor.offset,
                    tensor.length,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape),
                    name=tensor.name,
                )
    return model


def read_proto(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    """Loads a graph as onnx has it.

    Args:
        path: the file.
        weights: whether those that lie beside it are read too.

    Raises:
        ContractError: as `read_graph`.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as exc:
        raise ContractError("contract_mismatch", f"{path.name} is no ONNX graph; {_remedy(path)}") from exc
    for tensor in model.graph.initializer if weights else ():
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = int(where.get("offset", 0)), int(where.get("length", 0))
        with _weights(path, where.get("location", ""), end=offset + length).open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT
    return model


def write_graph(model: ir.Model, path: Path, *, beside: bool) -> None:
    """Writes a graph with all of its weights, in one file or beside it, wherever they lay before."""
    if not beside:
        ir.external_data.load_to_model(model)
    ir.save(model, path, external_data=_name(path) if beside else None)


def _weights(path: Path, location: str, *, end: int) -> Path:
    """The file with a graph's weights, of ``end`` bytes at least."""
    place = path.with_name(_name(path))
    if location != place.name or not place.is_file() or place.stat().st_size < end:
        raise ContractError(
            "contract_mismatch",
            f"the weights of {path.name} are expected beside it, whole, in {place.name}; {_remedy(path)}",
        )
    return place


def _remedy(path: Path) -> str:
    return "run tubelet engine" if path.parent.name == "gpu" else "export the bundle again"


def _name(path: Path) -> str:
    return f"{path.name}.data"
