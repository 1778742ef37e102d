"""A float32 graph in sixteen bits, with the parts that do not bear it kept in float32.

TensorRT 11 takes the types of every tensor from the ONNX file and changes none of them, so precision is decided here:
each node computes in sixteen bits or belongs to an *island* that computes in float32, and a Cast stands on every edge
between the two. Which are islands, and why, is in docs/adr/0017-gpu-graphs.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from tubelet.spec.errors import InvalidRequestError

__all__ = ["LINEAR", "is_linear", "lower", "store_counts", "take_shapes_from_floats"]

LINEAR = ("Conv", "MatMul", "Gemm")
"""What multiplies by weights."""

_EXACT = ("LayerNormalization", "Softmax", "TopK", "Sqrt", "Exp", "Log", "Cast")
"""Sums of squares overflow, or lose what they are about; TensorRT heeds no ``stash_type``."""

_SIZES = ("Shape", "Size")
"""What looks at no number: a cast in front of it would be computed for nothing."""

_DTYPES = {ir.DataType.FLOAT16: np.dtype(np.float16), ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16)}
_LARGEST_FP16 = float(np.finfo(np.float16).max)


def lower(model: ir.Model, dtype: ir.DataType) -> None:
    """Changes a float32 model to ``dtype``, FLOAT16 or BFLOAT16, in place; inputs and outputs stay as they are.

    Raises:
        InvalidRequestError: ``bad_input``: a weight is too large for float16.
    """
    islands = _islands(model.graph)
    writer = _Writer(model.graph, dtype)
    for node in list(model.graph):
        if node.op_type in _SIZES:
            continue
        wanted = ir.DataType.FLOAT if node in islands else dtype
        for i, value in enumerate(node.inputs):
            if value is not None and value.dtype in (ir.DataType.FLOAT, dtype):
                node.replace_input_with(i, writer.as_type(value, wanted, before=node))
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT:
                output.dtype = wanted
    RemoveUnusedNodesPass()(model)


def is_linear(node: ir.Node) -> bool:
    """Whether a node multiplies by weights of its own, dequantised ones included."""
    return node.op_type in LINEAR and node.inputs[1] is not None and _is_constant(node.inputs[1])


def take_shapes_from_floats(graph: ir.Graph) -> None:
    """Has sizes read from the floats that bytes are cast to: TensorRT's Shape takes no bytes."""
    for node in list(graph):
        given = node.inputs[0] if node.op_type == "Shape" else None
        casts = [] if given is None else [use.node for use in given.uses() if use.node.op_type == "Cast"]
        if given is not None and given.dtype == ir.DataType.UINT8 and casts:
            node.replace_input_with(0, casts[0].outputs[0])
            graph.sort()


def store_counts(graph: ir.Graph) -> None:
    """Stores how many TopK keeps, where the exporter computes it from sizes that are known all along.

    TensorRT must know that number, or a bound of it, when it builds.
    """
    for node in list(graph):
        kept = node.outputs[0].shape if node.op_type == "TopK" else None
        count = None if kept is None else kept[node.attributes.get_int("axis", -1)]
        computed = node.inputs[1].producer() if node.op_type == "TopK" and node.inputs[1] is not None else None
        if computed is None or not isinstance(count, int):
            continue
        tensor = ir.tensor(np.array([count], np.int64), name=f"{node.outputs[0].name}/count")
        stored = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([1]), const_value=tensor)
        graph.register_initializer(stored)
        node.replace_input_with(1, stored)
        _remove_unused(graph, computed)


def _islands(graph: ir.Graph) -> set[ir.Node]:
    nodes = list(graph)
    islands = {node for node in nodes if node.op_type in _EXACT or node.op_type.startswith("Reduce")}
    # Whatever makes floats of none: pixels, and numbers that are computed from sizes.
    islands |= {node for node in nodes if not _float_inputs(node)}
    # Pixels, up to the first layer.
    first = next(node for node in nodes if is_linear(node))
    islands |= _before(first.inputs[:1], until=())
    # The last layer, and whatever comes after it.
    islands |= _before(graph.outputs, until=(*LINEAR, "LayerNormalization"))
    # The scores by which TopK chooses: it must not see ties that rounding made.
    chosen = (node.inputs[0] for node in nodes if node.op_type == "TopK")
    islands |= _before(chosen, until=("MatMul",))
    return islands


def _remove_unused(graph: ir.Graph, node: ir.Node) -> None:
    """Removes a node that nobody wants, and whatever was there for it alone."""
    if any(output.uses() or output.is_graph_output() for output in node.outputs):
        return
    given = [value for value in node.inputs if value is not None]
    graph.remove(node, safe=True)
    for value in given:
        if (producer := value.producer()) is not None:
            _remove_unused(graph, producer)
        elif value.is_initializer() and not value.uses():
            del graph.initializers[value.name]  # type: ignore[arg-type]


def _before(values: Iterable[ir.Value | None], *, until: tuple[str, ...]) -> set[ir.Node]:
    """The nodes that compute floats for ``values``, back to the first of certain types on each way, which belong."""
    found: set[ir.Node] = set()
    waiting = [value.producer() for value in values if value is not None]
    while waiting:
        node = waiting.pop()
        if node is None or node in found or not any(o.dtype == ir.DataType.FLOAT for o in node.outputs):
            continue
        found.add(node)
        if node.op_type not in until:
            waiting += [value.producer() for value in node.inputs if value is not None]
    return found


class _Writer:
    """Puts casts between the nodes of a graph, one for each value and type, and lowers weights once."""

    def __init__(self, graph: ir.Graph, dtype: ir.DataType) -> None:
        self.graph, self.dtype = graph, dtype
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def as_type(self, value: ir.Value, wanted: ir.DataType, *, before: ir.Node) -> ir.Value:
        """``value`` in a type: itself, what a cast makes of it, or a copy of the weights."""
        if value.dtype == wanted:
            return value
        if (value, wanted) not in self._made:
            make = self._lower_weights if value.is_initializer() else self._cast
            self._made[value, wanted] = make(value, wanted)
        return self._made[value, wanted]

    def _cast(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        name = f"{value.name}/{wanted.name.lower()}"
        node = ir.node("Cast", [value], attributes={"to": wanted.value}, name=name)
        output = node.outputs[0]
        output.name, output.dtype, output.shape = name, wanted, value.shape
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        return output

    def _lower_weights(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        if value.const_value is None:
            raise TypeError(f"{value.name} has no numbers")
        numbers = value.const_value.numpy()
        if wanted == ir.DataType.FLOAT16 and numbers.size and np.abs(numbers).max() > _LARGEST_FP16:
            raise InvalidRequestError("bad_input", f"{value.name} has weights beyond {_LARGEST_FP16:g}; take bf16")
        tensor = ir.tensor(numbers.astype(_DTYPES[wanted]), name=f"{value.name}/{wanted.name.lower()}")
        lowered = ir.Value(name=tensor.name, type=ir.TensorType(wanted), shape=value.shape, const_value=tensor)
        self.graph.register_initializer(lowered)
        return lowered


def _float_inputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None and value.dtype == ir.DataType.FLOAT]


def _is_constant(value: ir.Value) -> bool:
    """Whether a value is stored, in floats or in eight bits."""
    producer = value.producer()
    if producer is not None and producer.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return producer.inputs[0] is not None and _is_constant(producer.inputs[0])
    return value.is_initializer()
