"""Scaled dot-product attention as one ONNX node, ``Attention`` of opset 23, instead of the operations it is made of.

TensorRT imports that node as its fused attention, or fails to build: it can no longer fall back to one that writes the
scores of all pairs of tokens to memory. What torch's exporter writes below opset 23 is, for queries Q, keys K, values V
``[B, N, S, H]`` and s, the root of the scale: ``MatMul(Softmax(MatMul(Q*s, transpose(K)*s)), V)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass
from onnxscript.version_converter import convert_version

__all__ = ["ATTENTION_OPSET", "Fusion", "fuse_attention"]

ATTENTION_OPSET = 23
"""The first with Attention; TensorRT 11.2 reads 9 to 24."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fusion:
    """What became of a graph's softmaxes."""

    fused: int
    left: int
    """Softmaxes that are no attention of that form, such as those that score the times which C-VidTr keeps."""
    most_heads: int
    """N, the most of any attention: VidTr folds places or times into it, and kernels have a limit to B*N."""


@dataclass(frozen=True, slots=True)
class _Match:
    inputs: tuple[ir.Value, ir.Value, ir.Value]
    """Queries, keys, values."""
    scale: float
    output: ir.Node
    """The last MatMul."""


def fuse_attention(model: ir.Model) -> Fusion:
    """Raises a model to `ATTENTION_OPSET` and fuses, in place, every attention that matches exactly.

    The result is the same up to the order of sums.
    """
    convert_version(model, ATTENTION_OPSET)
    # The exporter notes no sizes of the keys on their way to be transposed.
    ShapeInferencePass(check_type=True, strict_mode=True, data_prop=True)(model)
    softmaxes = [node for node in model.graph if node.op_type == "Softmax"]
    matches = [match for match in map(_match, softmaxes) if match is not None]
    for match in matches:
        _replace(match)
    RemoveUnusedNodesPass()(model)
    return Fusion(
        fused=len(matches),
        left=len(softmaxes) - len(matches),
        most_heads=max((int(_dims(match.inputs[0])[1] or 0) for match in matches), default=0),
    )


def _match(softmax: ir.Node) -> _Match | None:
    """The attention that a softmax is part of."""
    product, mixed = _producer(softmax.inputs[0], "MatMul"), _only_user(softmax.outputs[0], "MatMul")
    if product is None or mixed is None or _axis(softmax) != 3 or mixed.inputs[0] is not softmax.outputs[0]:
        return None
    query, query_scale = _scaled(product.inputs[0])
    transposed, key_scale = _scaled(product.inputs[1])
    key, value = _untransposed(transposed), mixed.inputs[1]
    if query is None or key is None or value is None or _only_user(product.outputs[0], "Softmax") is None:
        return None
    parts = (query, key, value)
    if not all(_is_static(part) for part in parts) or len({_dims(part)[1] for part in parts}) > 1:
        return None
    return _Match(parts, query_scale * key_scale, mixed)


def _replace(match: _Match) -> None:
    old = match.output
    new = ir.node("Attention", match.inputs, attributes={"scale": match.scale}, name=old.name)
    output = old.outputs[0]
    ir.convenience.replace_nodes_and_values(
        output.producer().graph,  # type: ignore[union-attr, arg-type]
        insertion_point=old,
        old_nodes=[old],
        new_nodes=[new],
        old_values=[output],
        new_values=[new.outputs[0]],
    )


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type else None


def _only_user(value: ir.Value, op_type: str) -> ir.Node | None:
    users = [use.node for use in value.uses()]
    return users[0] if len(users) == 1 and users[0].op_type == op_type and not value.is_graph_output() else None


def _axis(softmax: ir.Node) -> int:
    axis = softmax.attributes.get_int("axis", -1)
    return axis + 4 if axis < 0 else axis


def _scaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """What is multiplied by a number, and the number."""
    node = _producer(value, "Mul")
    factor = None if node is None or node.inputs[1] is None else node.inputs[1].const_value
    if node is None or factor is None or factor.size != 1:
        return None, 0.0
    return node.inputs[0], float(factor.numpy().item())


def _untransposed(value: ir.Value | None) -> ir.Value | None:
    """K ``[B, N, S, H]`` of ``[B, N, H, S]``, which the exporter transposes by way of ``[B*N, S, H]``."""
    folded = _producer(value, "Reshape")
    if folded is None:
        return None
    swapped = _producer(folded.inputs[0], "Transpose")
    if swapped is None or list(swapped.attributes.get_ints("perm", [])) != [0, 2, 1]:
        return None
    unfolded = _producer(swapped.inputs[0], "Reshape")
    if unfolded is None:
        return None
    key, middle, transposed = (_dims(part) for part in (unfolded.inputs[0], unfolded.outputs[0], folded.outputs[0]))
    # Rows and columns keep their sizes, so nothing but the axes before them was folded.
    if len(key) != 4 or len(middle) != 3 or len(transposed) != 4 or None in key[1:]:
        return None
    if middle[1:] != key[2:] or transposed[1:] != (key[1], key[3], key[2]):
        return None
    return unfolded.inputs[0]


def _is_static(value: ir.Value) -> bool:
    """Whether a value is ``[B, N, S, H]`` with all but B known."""
    dims = _dims(value)
    return len(dims) == 4 and None not in dims[1:]


def _dims(value: ir.Value | None) -> tuple[int | None, ...]:
    """Sizes of the axes, None where one is not known; ``()`` where nothing is."""
    if value is None or value.shape is None:
        return ()
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)
