"""Sixteen bits: which numbers they are, where they are not, and what becomes of weights that do not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tubelet.export.attention import fuse_attention
from tubelet.export.host import compute_in_float32
from tubelet.export.precision import lower, store_counts, take_shapes_from_floats
from tubelet.spec.errors import InvalidRequestError

LOW = [ir.DataType.FLOAT16, ir.DataType.BFLOAT16]
WIDE = ("LayerNormalization", "Softmax", "ReduceMean", "TopK", "Sqrt")


def small_model(*, weight: float = 0.5) -> ir.Model:
    """Bytes -> float -> normalised -> linear -> LayerNorm -> linear -> relu -> linear: logits."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {f"W{i}": rng.standard_normal((8, 8)).astype(np.float32) * weight for i in range(3)}
    arrays |= {"std": np.float32(127.5), "gain": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    nodes = [
        helper.make_node("Shape", ["UNITS"], ["shape"], name="shape"),
        helper.make_node("Cast", ["UNITS"], ["pixels"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "std"], ["normal"], name="div"),
        helper.make_node("MatMul", ["normal", "W0"], ["a"], name="first"),
        helper.make_node("LayerNormalization", ["a", "gain", "bias"], ["b"], name="norm"),
        helper.make_node("MatMul", ["b", "W1"], ["c"], name="second"),
        helper.make_node("Relu", ["c"], ["d"], name="relu"),
        helper.make_node("Add", ["d", "a"], ["e"], name="add"),
        helper.make_node("Reshape", ["e", "shape"], ["f"], name="reshape"),
        helper.make_node("MatMul", ["f", "W2"], ["LOGITS"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("UNITS", TensorProto.UINT8, ["u", 8])],
        [helper.make_tensor_value_info("LOGITS", TensorProto.FLOAT, ["u", 8])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def node_of(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def types(values: object) -> list[ir.DataType | None]:
    return [value.dtype for value in values]  # type: ignore[attr-defined]


@pytest.mark.parametrize("low", LOW)
def test_each_part_has_the_type_that_it_bears(low: ir.DataType) -> None:
    model = small_model()
    lower(model, low)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    exact = ir.DataType.FLOAT
    assert types(node_of(model, "div").inputs) == [exact, exact]
    assert types(node_of(model, "first").inputs) == [low, low]
    assert types(node_of(model, "norm").inputs) == [exact] * 3
    assert types(node_of(model, "norm").outputs) == [exact]
    assert types(node_of(model, "second").inputs) == [low, low]
    assert types(node_of(model, "add").inputs) == [low, low]
    assert types(node_of(model, "head").inputs) == [exact, exact]
    assert types(model.graph.outputs) == [exact]
    assert types(model.graph.inputs) == [ir.DataType.UINT8]


@pytest.mark.parametrize("low", LOW)
def test_a_value_is_cast_once_and_bytes_become_float32_first(low: ir.DataType) -> None:
    model = small_model()
    lower(model, low)
    casts = [(node.inputs[0], node.outputs[0].dtype) for node in model.graph if node.op_type == "Cast"]
    assert len(set(casts)) == len(casts)
    assert [to for value, to in casts if value is not None and value.dtype == ir.DataType.UINT8] == [ir.DataType.FLOAT]


def test_weights_are_rounded_as_torch_rounds_them() -> None:
    for low, dtype in zip(LOW, (torch.float16, torch.bfloat16), strict=True):
        model = small_model()
        given = model.graph.initializers["W1"].const_value
        lower(model, low)
        stored = node_of(model, "second").inputs[1]
        assert given is not None
        assert stored is not None
        assert stored.const_value is not None
        wanted = torch.tensor(given.numpy()).to(dtype).float().numpy()
        np.testing.assert_array_equal(stored.const_value.numpy().astype(np.float32), wanted)


def test_a_weight_beyond_float16_is_an_error_that_names_it() -> None:
    with pytest.raises(InvalidRequestError, match=r"W0 has weights beyond 65504; take bf16"):
        lower(small_model(weight=1e6), ir.DataType.FLOAT16)
    lower(small_model(weight=1e6), ir.DataType.BFLOAT16)


def test_sizes_are_read_from_floats() -> None:
    model = small_model()
    take_shapes_from_floats(model.graph)
    assert types(node_of(model, "shape").inputs) == [ir.DataType.FLOAT]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_no_pixel_is_cast_for_its_size_alone() -> None:
    """A runtime would compute the cast of every pixel."""
    model = small_model()
    take_shapes_from_floats(model.graph)
    lower(model, ir.DataType.FLOAT16)
    assert types(node_of(model, "shape").inputs) == [ir.DataType.FLOAT]
    assert [node.op_type for node in model.graph].count("Shape") == 1
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def choosing_model() -> ir.Model:
    """The 3 largest of 8 scores, then their places in ascending order, as torch's exporter writes them."""
    arrays = {"three": np.array([3]), "last": np.array(1), "flat": np.array([1])}
    nodes = [
        helper.make_node("TopK", ["scores", "three"], ["largest", "places"], name="choose"),
        helper.make_node("Shape", ["places"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "last"], ["size"]),
        helper.make_node("Reshape", ["size", "flat"], ["count"]),
        helper.make_node("TopK", ["places", "count"], ["KEPT", "order"], name="sort", largest=0),
    ]
    graph = helper.make_graph(
        nodes,
        "choosing",
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["u", 8])],
        [helper.make_tensor_value_info("KEPT", TensorProto.INT64, ["u", 3])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def test_how_many_times_are_kept_is_stored() -> None:
    model = choosing_model()
    store_counts(model.graph)
    assert [node.op_type for node in model.graph] == ["TopK", "TopK"]
    assert set(model.graph.initializers) == {"three", "KEPT/count"}
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    scores = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    sessions = (onnxruntime.InferenceSession(p.SerializeToString()) for p in (ir.to_proto(choosing_model()), proto))
    wanted, found = (session.run(None, {"scores": scores})[0] for session in sessions)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(found, np.sort(np.argsort(-scores)[:, :3]))


def test_a_count_that_a_request_decides_stays_computed() -> None:
    model = choosing_model()
    sort = node_of(model, "sort")
    sort.outputs[0].shape = ir.Shape(["u", "n"])
    store_counts(model.graph)
    assert len(model.graph) == 5
    assert sort.inputs[1] is not None
    assert sort.inputs[1].name == "count"


def test_bfloat16_is_computed_as_torch_computes_it() -> None:
    model = small_model()
    lower(model, ir.DataType.BFLOAT16)
    weights = {
        name: torch.tensor(numpy_helper.to_array(tensor)).bfloat16().float()
        for tensor in ir.to_proto(small_model()).graph.initializer
        if (name := tensor.name).startswith("W")
    }
    compute_in_float32(model.graph)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    units = np.random.default_rng(1).integers(0, 256, (5, 8), dtype=np.uint8)
    (found,) = session.run(None, {"UNITS": units})

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return x.bfloat16().float()

    a = rounded(rounded(torch.from_numpy(units).float() / 127.5) @ weights["W0"])
    b = rounded(torch.nn.functional.layer_norm(a, (8,)))
    e = rounded(rounded(b @ weights["W1"]).relu() + a)
    exact_head = torch.tensor(numpy_helper.to_array(ir.to_proto(small_model()).graph.initializer[2]))
    # Two roundings may fall to the other side where sums are taken in another order.
    np.testing.assert_allclose(found, (e @ exact_head).numpy(), rtol=0, atol=0.02)
    in_float32 = onnxruntime.InferenceSession(ir.to_proto(small_model()).SerializeToString())
    assert np.abs(found - in_float32.run(None, {"UNITS": units})[0]).max() > 1e-3


@pytest.mark.parametrize("low", LOW)
def test_what_chooses_the_times_that_c_vidtr_keeps_is_exact(
    demo_bundle: Callable[[str], Path], low: ir.DataType
) -> None:
    model = ir.load(demo_bundle("motion_cvidtr") / "encoder.onnx")
    fuse_attention(model)
    lower(model, low)
    for node in model.graph:
        if node.op_type in WIDE:
            assert node.inputs[0] is not None
            assert node.inputs[0].dtype != low, node.name
    scored = [node for node in model.graph if node.op_type == "MatMul" and _feeds(node, "TopK", depth=12)]
    products = [node for node in scored if all(not value.is_initializer() for value in node.inputs if value)]
    assert len(products) == 2
    assert {value.dtype for node in products for value in node.inputs if value} == {ir.DataType.FLOAT}


def _feeds(node: ir.Node, op_type: str, *, depth: int) -> bool:
    users = {use.node for output in node.outputs for use in output.uses()} if depth else set()
    return any(user.op_type == op_type or (user.op_type != "MatMul" and _feeds(user, op_type, depth=depth - 1))
               for user in users)  # fmt: skip
