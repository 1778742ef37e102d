"""The tables of what the GPU target imports: our graphs are clean where they run, and planted faults are found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from tubelet.export.tensorrt_ops import Finding, check_cuda_support, check_tensorrt_support, most_numbers

DEMOS = ("motion", "motion_vtn", "motion_vidtr", "motion_cvidtr")


@pytest.mark.parametrize("name", DEMOS)
def test_graphs_are_clean_where_they_run(demo_bundle: Callable[[str], Path], name: str) -> None:
    """units and average by ONNX Runtime on the card, encoder and temporal as plans."""
    bundle = demo_bundle(name)
    for step in ("units", "average"):
        assert check_cuda_support(bundle / f"{step}.onnx") == []
    for step in ("encoder", "temporal", "average"):
        if (bundle / f"{step}.onnx").is_file():
            assert check_tensorrt_support(bundle / f"{step}.onnx") == []


def test_cutting_bytes_is_not_for_tensorrt(demo_bundle: Callable[[str], Path]) -> None:
    findings = check_tensorrt_support(demo_bundle("motion") / "units.onnx")
    assert {"Gather", "Shape", "Reshape"} == {finding.op_type for finding in findings}
    assert all("is UINT8" in finding.reason for finding in findings)


def graph(
    folder: Path,
    *nodes: onnx.NodeProto,
    inputs: dict[str, tuple[int, list[int]]],
    stored: dict[str, Any] | None = None,
    output: int = T.FLOAT,
    opset: int = 23,
) -> Path:
    """A file with some nodes, the last of which gives ``y``."""
    proto = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(array, name) for name, array in (stored or {}).items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
    onnx.save(model, folder / "planted.onnx")
    return folder / "planted.onnx"


def node(op_type: str, *inputs: str, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, outputs, name="planted", **attributes)


X: dict[str, tuple[int, list[int]]] = {"x": (T.FLOAT, [2, 3, 8, 8])}
QKV = {name: (T.FLOAT16, [2, 3, 5, 8]) for name in "qkv"}
SCALE, ZERO = np.float32(0.5), np.int8(0)
K, SIZES = np.array([3], np.int64), np.array([2, 3, 16, 16], np.int64)
BIG_K = np.array([4000], np.int64)

PAIR = [
    node("QuantizeLinear", "x", "s", "z", outputs=("q",)),
    helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
]

PLANTED: dict[str, Any] = {
    "cubic resize": (
        [node("Resize", "x", "", "", "sizes", mode="cubic")], X, {"sizes": SIZES}, "mode nearest and linear are taken",
    ),
    "antialias": ([node("Resize", "x", "", "", "sizes", mode="linear", antialias=1)], X, {"sizes": SIZES}, "antialias"),
    "aspect ratio": (
        [node("Resize", "x", "", "", "sizes", mode="linear", keep_aspect_ratio_policy="not_larger")],
        X, {"sizes": SIZES}, "must be stretch",
    ),
    "unsorted TopK": ([node("TopK", "x", "k", outputs=("y", "i"), sorted=0)], X, {"k": K}, "sorted must be 1"),
    "large K": (
        [node("TopK", "x", "k", outputs=("y", "i"))], {"x": (T.FLOAT, [2, 5000])}, {"k": BIG_K}, "less than 3840",
    ),
    "bytes to bfloat16": (
        [node("Cast", "x", outputs=("z",), to=T.BFLOAT16), helper.make_node("Cast", ["z"], ["y"], to=T.FLOAT)],
        {"x": (T.UINT8, [2])}, {}, "not BFLOAT16",
    ),
    "bytes inside": (
        [helper.make_node("Cast", ["x"], ["b"], to=T.UINT8), node("Cast", "b", to=T.FLOAT)],
        X, {}, "inputs and outputs",
    ),
    "size of bytes": (
        [node("Shape", "x", outputs=("s",)), helper.make_node("Cast", ["s"], ["y"], to=T.FLOAT)],
        {"x": (T.UINT8, [2])}, {}, "x is UINT8",
    ),
    "statistics of LayerNormalization": (
        [node("LayerNormalization", "x", "g", outputs=("y", "mean"))], X, {"g": np.ones(8, np.float32)}, "first output",
    ),
    "attention in float32": (
        [node("Attention", "q", "k", "v")], {name: (T.FLOAT, [2, 3, 5, 8]) for name in "qkv"}, {}, "sixteen bits only",
    ),
    "attention on three axes": (
        [node("Attention", "q", "k", "v", q_num_heads=2, kv_num_heads=2, outputs=("z",)),
         helper.make_node("Cast", ["z"], ["y"], to=T.FLOAT)],
        {name: (T.FLOAT16, [2, 5, 8]) for name in "qkv"}, {}, "four axes",
    ),
    "softcap": (
        [node("Attention", "q", "k", "v", softcap=5.0, outputs=("z",)),
         helper.make_node("Cast", ["z"], ["y"], to=T.FLOAT)],
        QKV, {}, "softcap",
    ),
    "zero point": (
        PAIR,
        X, {"s": SCALE, "z": np.int8(3)}, "zero point must be 0",
    ),
    "unsigned": (
        PAIR,
        X, {"s": SCALE, "z": np.uint8(0)}, "int8 and float8e4m3fn",
    ),
    "scale of nothing": (
        PAIR,
        X, {"s": np.float32(0), "z": ZERO}, "above 0",
    ),
    "axes that come": (
        [node("ReduceMean", "x", "axes")], X | {"axes": (T.INT64, [1])}, {}, "axes must be constant",
    ),
    "an operation of nobody": ([node("Bernoulli", "x")], X, {}, "no such operation"),
    "double": ([node("Relu", "x", outputs=("z",)), helper.make_node("Cast", ["z"], ["y"], to=T.FLOAT)],
               {"x": (T.DOUBLE, [2])}, {}, "x is DOUBLE"),
    "one axis pooled": ([node("MaxPool", "x", kernel_shape=[2])], {"x": (T.FLOAT, [1, 2, 8])}, {}, "two or three axes"),
    "many axes": ([node("Relu", "x")], {"x": (T.FLOAT, [1] * 9)}, {}, "more than 8 axes"),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_with_the_nodes_name(tmp_path: Path, fault: str) -> None:
    nodes, inputs, stored, reason = PLANTED[fault]
    findings = check_tensorrt_support(graph(tmp_path, *nodes, inputs=inputs, stored=stored))
    found = [finding for finding in findings if finding.node == "planted"]
    assert found, findings
    assert any(reason in finding.reason for finding in found), found


def test_a_loop_is_found(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["cond"], ["again"]), helper.make_node("Relu", ["state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", T.INT64, []),
            helper.make_tensor_value_info("cond", T.BOOL, []),
            helper.make_tensor_value_info("state", T.FLOAT, [2]),
        ],
        [helper.make_tensor_value_info("again", T.BOOL, []), helper.make_tensor_value_info("next", T.FLOAT, [2])],
    )
    stored = {"times": np.int64(3), "go": np.bool_(True)}
    path = graph(tmp_path, node("Loop", "times", "go", "x", body=body), inputs={"x": (T.FLOAT, [2])}, stored=stored)
    (finding,) = check_tensorrt_support(path)
    assert (finding.node, finding.op_type) == ("planted", "Loop")


@pytest.mark.parametrize(("opset", "is_read"), [(20, True), (24, True), (25, False)])
def test_opsets_that_are_not_read_are_found(tmp_path: Path, opset: int, is_read: bool) -> None:
    path = graph(tmp_path, node("Relu", "x"), inputs=X, opset=opset)
    wanted = [] if is_read else [Finding("(graph)", "opset", "opset 9 to 24 is read, not 25")]
    assert check_tensorrt_support(path) == wanted


def test_what_has_no_cuda_kernel_is_found(tmp_path: Path) -> None:
    inputs: dict[str, tuple[int, list[int]]] = {"x": (T.INT64, [2])}
    pad = node("Pad", "x", "pads", outputs=("p",))
    path = graph(
        tmp_path,
        pad,
        helper.make_node("Cast", ["p"], ["y"], to=T.FLOAT),
        inputs=inputs,
        stored={"pads": np.array([1, 0], np.int64)},
    )
    (finding,) = check_cuda_support(path)
    assert str(finding) == "planted (Pad): x is INT64; CUDAExecutionProvider takes BOOL, FLOAT, FLOAT16"


@pytest.mark.parametrize("tokens", [20, 60])
def test_the_largest_tensor_is_found(tmp_path: Path, tokens: int) -> None:
    """The products of all pairs, once there are more of them than what is multiplied."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pairs",
        [helper.make_tensor_value_info("x", T.FLOAT, ["u", 4, tokens, 32])],
        [helper.make_tensor_value_info("y", T.FLOAT, ["u", 4, tokens, tokens])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "pairs.onnx")
    assert most_numbers(tmp_path / "pairs.onnx") == 4 * tokens * max(tokens, 32)
