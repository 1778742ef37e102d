"""Would TensorRT's importer take a graph? Operation by operation, type by type, before a GPU is there to ask.

The tables are those of `tubelet.export.importer_tables`; the limits are of the same sources and of TensorRT's pages on
its layers Shape, Cast and fused attention. A graph without findings is likely to be imported; only a build can tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from tubelet.export.importer_tables import CUDA, TENSORRT, TENSORRT_OPSETS
from tubelet.export.stored import read_graph

__all__ = ["Finding", "check_cuda_support", "check_tensorrt_support", "most_numbers"]

_D = ir.DataType
_MOST_AXES = 8
_MOST_CHOSEN = 3839
"""K of TopK."""
_CONSTANT_INPUT = {"Squeeze": 1, "Unsqueeze": 1, "CumSum": 1, "OneHot": 1}
"""Operations of which an input must be known when the plan is built."""
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that would not be imported."""

    node: str
    op_type: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node} ({self.op_type}): {self.reason}"


def check_tensorrt_support(graph: Path) -> list[Finding]:
    """What TensorRT 11.2 would not import of an ONNX file; nothing, if all is well."""
    model = _load(graph)
    findings = [*_check_model(model), *_check_types(model, TENSORRT, "TensorRT")]
    for node in model.graph.all_nodes():
        limit = _LIMITS.get(node.op_type, _LIMITS["Reduce"] if node.op_type.startswith("Reduce") else None)
        if limit is not None and (reason := limit(node)):
            findings.append(_finding(node, reason))
        if any(len(value.shape or ()) > _MOST_AXES for value in node.outputs):
            findings.append(_finding(node, f"a tensor has more than {_MOST_AXES} axes"))
    return findings


def check_cuda_support(graph: Path) -> list[Finding]:
    """What ONNX Runtime would compute on the processor, for want of a CUDA kernel."""
    return list(_check_types(_load(graph), CUDA, "CUDAExecutionProvider"))


def most_numbers(graph: Path) -> int:
    """Numbers of the largest tensor that an ONNX file computes, for 1 on its one dynamic axis."""
    shapes = [value.shape or () for node in _load(graph).graph.all_nodes() for value in node.outputs]
    return max(math.prod(dim for dim in shape if isinstance(dim, int)) for shape in shapes)


def _load(graph: Path) -> ir.Model:
    model = read_graph(graph)
    ShapeInferencePass(check_type=True, strict_mode=False, data_prop=True)(model)
    return model


def _check_model(model: ir.Model) -> Iterator[Finding]:
    opset = model.opset_imports.get("", 0)
    if opset not in TENSORRT_OPSETS:
        first, last = TENSORRT_OPSETS[0], TENSORRT_OPSETS[-1]
        yield Finding("(graph)", "opset", f"opset {first} to {last} is read, not {opset}")
    for value in model.graph.outputs:
        if value.dtype == _D.BFLOAT16:
            yield Finding("(graph)", "output", f"{value.name} is bfloat16, which no client can take")


def _check_types(model: ir.Model, table: Mapping[str, frozenset[ir.DataType]], who: str) -> Iterator[Finding]:
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx") or node.op_type not in table:
            yield _finding(node, f"{who} has no such operation")
            continue
        allowed = table[node.op_type]
        for value in _data(node):
            if value.dtype is None:
                yield _finding(node, f"the type of {value.name} is not known")
            elif value.dtype not in allowed:
                names = ", ".join(sorted(dtype.name for dtype in allowed))
                yield _finding(node, f"{value.name} is {value.dtype.name}; {who} takes {names}")


def _data(node: ir.Node) -> list[ir.Value]:
    """The tensors by whose types an operation is chosen."""
    if node.op_type == "Where":
        values = list(node.inputs[1:])
    elif node.op_type in ("Attention", "Concat", "MatMul"):
        values = list(node.inputs)
    elif node.op_type == "Cast":
        values = [*node.inputs, *node.outputs]
    else:
        values = list(node.inputs[:1] or node.outputs[:1])
    return [value for value in values if value is not None]


def _finding(node: ir.Node, reason: str) -> Finding:
    return Finding(node.name or "(without a name)", node.op_type, reason)


def _attention(node: ir.Node) -> str | None:
    given = [value for value in node.inputs if value is not None]
    if len(given) > 4 or any(value is not None for value in node.inputs[4:]):
        return "Q, K, V and a mask are taken, no past and no lengths"
    if len(node.outputs) > 1:
        return "one output is given"
    if node.attributes.get_float("softcap", 0.0) != 0 or node.attributes.get_int("qk_matmul_output_mode", 0) != 0:
        return "softcap and qk_matmul_output_mode are not taken"
    if any(value.shape is None or len(value.shape) != 4 for value in given):
        return "Q, K, V and the mask must have four axes"
    if any(value.dtype == _D.FLOAT for value in given[:3]):
        return "it is fused in sixteen bits only; in float32 no plan is built"
    return None


def _cast(node: ir.Node) -> str | None:
    (given,), (made,) = node.inputs, node.outputs
    if given is None or _D.UINT8 not in (given.dtype, made.dtype):
        return None
    comes_in = given.dtype == _D.UINT8
    if not (given.is_graph_input() if comes_in else made.is_graph_output()):
        return "uint8 is for inputs and outputs of the graph only"
    other = made.dtype if comes_in else given.dtype
    if other not in (_D.FLOAT, _D.FLOAT16):
        return f"uint8 goes to and from float32 and float16, not {other.name if other else 'an unknown type'}"
    return None


def _topk(node: ir.Node) -> str | None:
    if node.attributes.get_int("sorted", 1) != 1:
        return "sorted must be 1"
    k = _constant(node.inputs[1])
    return f"K must be less than {_MOST_CHOSEN + 1}" if k is not None and k.max() > _MOST_CHOSEN else None


def _resize(node: ir.Node) -> str | None:
    get = node.attributes.get_string
    if (mode := get("mode", "nearest")) not in ("nearest", "linear"):
        return f"mode nearest and linear are taken, not {mode}"
    if node.attributes.get_int("antialias", 0):
        return "antialias is not taken"
    if (kind := get("coordinate_transformation_mode", "half_pixel")) not in _COORDINATES:
        return f"coordinate_transformation_mode {kind} is not taken"
    return (
        "keep_aspect_ratio_policy must be stretch" if get("keep_aspect_ratio_policy", "stretch") != "stretch" else None
    )


def _quantise(node: ir.Node) -> str | None:
    scale, zero = (_constant(value) for value in (*node.inputs[1:], None, None)[:2])
    if scale is None or not np.all(scale.astype(np.float64) > 0):
        return "the scale must be a constant above 0"
    kind = node.inputs[2].dtype if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if kind not in (_D.INT8, _D.FLOAT8E4M3FN):
        return "it goes to int8 and float8e4m3fn, by the type of its zero point"
    return "the zero point must be 0" if zero is None or np.any(zero.astype(np.float32)) else None


def _reduce(node: ir.Node) -> str | None:
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    return "the axes must be constant" if axes is not None and _constant(axes) is None else None


def _pool(node: ir.Node) -> str | None:
    if len(node.outputs) > 1:
        return "Indices are not given"
    if len(node.attributes.get_ints("kernel_shape", [])) not in (2, 3):
        return "two or three axes are pooled"
    return "dilations must be 1" if math.prod(node.attributes.get_ints("dilations", [])) != 1 else None


def _first_output(node: ir.Node) -> str | None:
    return "only the first output is given" if len(node.outputs) > 1 else None


def _control(_: ir.Node) -> str:
    return "control flow is not for our graphs: TensorRT wants its lengths constant, and fuses no attention inside"


def _known(node: ir.Node) -> str | None:
    index = _CONSTANT_INPUT[node.op_type]
    value = node.inputs[index] if len(node.inputs) > index else None
    return f"{value.name} must be constant" if value is not None and _constant(value) is None else None


def _constant(value: ir.Value | None) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    """A stored tensor's numbers."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


_LIMITS: dict[str, Callable[[ir.Node], str | None]] = {
    "Attention": _attention,
    "AveragePool": _pool,
    "Cast": _cast,
    "DequantizeLinear": _quantise,
    "If": _control,
    "LayerNormalization": _first_output,
    "Loop": _control,
    "MaxPool": _pool,
    "QuantizeLinear": _quantise,
    "Reduce": _reduce,
    "Resize": _resize,
    "Scan": _control,
    "TopK": _topk,
    **dict.fromkeys(_CONSTANT_INPUT, _known),
}
