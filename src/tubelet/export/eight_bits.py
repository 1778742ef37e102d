"""Pairs of QuantizeLinear and DequantizeLinear as TensorRT takes them: symmetric, weights stored in eight bits.

NNCF places the pairs around the linear layers and measures their scales, for integers. Both kinds of eight bits come
from that one calibration: a float8 number goes to 448 where an int8 number goes to 127.
"""

from __future__ import annotations

from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

__all__ = ["EightBits", "to_eight_bits"]

EightBits = Literal["int8", "fp8"]

_INT8, _UINT8, _FP8 = 127.0, 255.0, 448.0
"""The largest number of each kind; fp8 is float8 e4m3fn."""

_SMALLEST_SCALE = float(np.finfo(np.float16).tiny)
"""Scales become float16, where smaller numbers lose digits. A channel of weights so small adds next to nothing."""

_DTYPES: dict[EightBits, np.dtype[Any]] = {"int8": np.dtype(np.int8), "fp8": np.dtype(ml_dtypes.float8_e4m3fn)}


def to_eight_bits(model: ir.Model, kind: EightBits) -> int:
    """Rewrites, in place, the pairs of a float32 model that NNCF quantised for integers without a zero point.

    Returns:
        How many linear layers compute in eight bits.
    """
    num_layers = 0
    for node in list(model.graph):
        if node.op_type != "QuantizeLinear":
            continue
        (use,) = node.outputs[0].uses()
        given, scale, zero = (_stored(value) for value in node.inputs[:3])
        if zero is None or scale is None or np.any(zero):
            raise TypeError(f"{node.name} is not symmetric")
        scale = _scale(scale, of=zero.dtype, kind=kind)
        zeros = np.zeros(scale.shape, _DTYPES[kind])
        name = node.inputs[1].name  # type: ignore[union-attr]
        stored_scale, stored_zero = (
            _add(model.graph, f"{name}/{kind}{suffix}", array) for suffix, array in (("", scale), ("/zero", zeros))
        )
        for user in (node, use.node):
            user.replace_input_with(1, stored_scale)
            user.replace_input_with(2, stored_zero)
        node.outputs[0].type = stored_zero.type
        if given is None:
            num_layers += 1
            continue
        axis = node.attributes.get_int("axis", 1)
        weights = _quantise(given, scale, axis=axis, kind=kind)
        use.node.replace_input_with(0, _add(model.graph, f"{node.inputs[0].name}/{kind}", weights))  # type: ignore[union-attr]
    RemoveUnusedNodesPass()(model)
    return num_layers


def _scale(scale: NDArray[np.float32], *, of: np.dtype[Any], kind: EightBits) -> NDArray[np.float32]:
    """What one step of a number is worth, when the largest numbers of both kinds mean the same."""
    largest = _UINT8 if of == np.uint8 else _INT8
    moved = scale.astype(np.float64) * largest / (_INT8 if kind == "int8" else _FP8)
    # As it will be stored, so that weights are rounded to what they are multiplied by.
    return np.maximum(moved, _SMALLEST_SCALE).astype(np.float16).astype(np.float32)


def _quantise(weights: NDArray[np.float32], scale: NDArray[np.float32], *, axis: int, kind: EightBits) -> NDArray[Any]:
    if scale.ndim:
        shape = [1] * weights.ndim
        shape[axis] = -1
        scale = scale.reshape(shape)
    steps = weights / scale
    limited = np.clip(np.rint(steps), -128, 127) if kind == "int8" else np.clip(steps, -_FP8, _FP8)
    rounded: NDArray[Any] = limited.astype(_DTYPES[kind])
    return rounded


def _stored(value: ir.Value | None) -> NDArray[Any] | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _add(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value
