"""Graphs whose weights lie beside them: read whatever links they have, written whole, refused where damaged."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from tubelet.cli import main
from tubelet.demo.clips import write_clips
from tubelet.export.gpu_graphs import make_gpu_graph
from tubelet.export.host import open_on_host
from tubelet.export.quantise import quantise_bundle
from tubelet.export.staging import staging
from tubelet.export.stored import read_graph, read_proto, write_graph
from tubelet.export.tensorrt_ops import check_tensorrt_support
from tubelet.spec.errors import ContractError, InvalidRequestError
from tubelet.spec.manifest import Manifest

SIZE = 64 * 64


def small_model() -> ir.Model:
    weights = np.arange(SIZE, dtype=np.float32).reshape(64, 64)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "small",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["u", 64])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["u", 64])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(model)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A graph with its weights beside it, which have another link."""
    path = tmp_path / "small.onnx"
    write_graph(small_model(), path, beside=True)
    os.link(tmp_path / "small.onnx.data", tmp_path / "elsewhere")
    return path


@pytest.fixture
def large(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle whose graphs are too large for one file, and part of a repository too, as links."""
    bundle = tmp_path / "large"
    shutil.copytree(tiny_bundle, bundle)
    for name in ("encoder", "temporal"):
        write_graph(ir.load(bundle / f"{name}.onnx"), bundle / f"{name}.onnx", beside=True)
        os.link(bundle / f"{name}.onnx.data", tmp_path / f"{name}.link")
    return bundle


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def weights_of(graph: ir.Model) -> np.ndarray:
    tensor = graph.graph.initializers["w"].const_value
    assert tensor is not None
    return tensor.numpy()


def test_weights_with_other_links_are_read(path: Path) -> None:
    wanted = np.arange(SIZE, dtype=np.float32).reshape(64, 64)
    np.testing.assert_array_equal(weights_of(read_graph(path)), wanted)
    proto = read_proto(path)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(proto.graph.initializer[0]), wanted)
    onnx.checker.check_model(proto, full_check=True)
    without = read_proto(path, weights=False).graph.initializer[0]
    assert (without.data_location, without.raw_data) == (onnx.TensorProto.EXTERNAL, b"")


@pytest.mark.parametrize("beside", [True, False])
def test_weights_are_written_anew_wherever_they_lay(path: Path, tmp_path: Path, beside: bool) -> None:
    place = tmp_path / "other" / "copy.onnx"
    place.parent.mkdir()
    write_graph(read_graph(path), place, beside=beside)
    assert place.with_name("copy.onnx.data").is_file() == beside
    for file in (path, tmp_path / "small.onnx.data"):
        file.unlink()
    np.testing.assert_array_equal(weights_of(read_graph(place)), np.arange(SIZE).reshape(64, 64))
    onnx.checker.check_model(place, full_check=True)


@pytest.mark.parametrize("fault", ["no graph", "no weights", "half the weights", "weights elsewhere"])
def test_what_is_damaged_is_refused_with_a_remedy(path: Path, fault: str) -> None:
    data = path.with_name("small.onnx.data")
    match = r"the weights of small\.onnx are expected beside it, whole, in small\.onnx\.data; export the bundle again"
    if fault == "no graph":
        path.write_bytes(path.read_bytes()[:50])
        match = r"small\.onnx is no ONNX graph; export the bundle again"
    if fault == "no weights":
        data.unlink()
    if fault == "half the weights":
        os.truncate(data, data.stat().st_size // 2)
    if fault == "weights elsewhere":
        path.write_bytes(path.read_bytes().replace(b"small.onnx.data", b"../etc/password"))
    for read in (read_graph, read_proto):
        with pytest.raises(ContractError, match=match):
            read(path)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_graph_for_gpus_is_made_of_a_large_one(large: Path, tiny_bundle: Path, precision: str, beside: bool) -> None:
    """Half the bytes may fit into one file where all did not."""
    contract = Manifest.load(large).contract
    made = make_gpu_graph(large, precision, external_data_bytes=1000 if beside else 10**9)  # type: ignore[arg-type]
    assert (large / f"{made.file}.data").is_file() == beside
    assert check_tensorrt_support(large / made.file) == []
    small = large.with_name("small")
    shutil.copytree(tiny_bundle, small)
    make_gpu_graph(small, precision)  # type: ignore[arg-type]
    units = np.random.default_rng(0).integers(0, 256, (3, *contract.unit_shape), dtype=np.uint8)
    found, wanted = (open_on_host(folder / made.file, contract).run({"UNITS": units}) for folder in (large, small))
    np.testing.assert_array_equal(found["FEATURES"], wanted["FEATURES"])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_dry_run_takes_a_large_bundle_and_leaves_it(large: Path, precision: str) -> None:
    before = state(large)
    found = CliRunner().invoke(main, ["engine", str(large), "--precision", precision, "--dry-run"])
    assert found.exit_code == 0, found.output
    assert "gives gpu/temporal.plan" in found.stdout
    assert state(large) == before


def test_a_large_bundle_is_quantised(large: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", split="evaluation", seed=1, count=2, workers=1)
    quantise_bundle(large, videos=tmp_path / "clips", num_clips=2)
    assert (large / "encoder.int8.onnx").is_file()


@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_a_folder_that_cannot_be_replaced_is_left(large: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    before = state(large)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(InvalidRequestError, match=r"cannot be replaced as a whole \(Read-only file system\)"):
        _replace(large)
    assert state(large) == before
    assert not [path for path in large.parent.iterdir() if path.name.startswith(".")]


def _replace(bundle: Path) -> None:
    with staging(bundle) as folder:
        os.mkdir(folder / "new")  # noqa: PTH102 - Path.mkdir is what refuses here
