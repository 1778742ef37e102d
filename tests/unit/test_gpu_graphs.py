"""The GPU target's graphs: whole or not there, judged by the budgets, each number of the type that it bears."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import numpy_helper
from tiny import CHECKPOINT

from tubelet.demo.clips import write_clips
from tubelet.engines.base import EngineSettings
from tubelet.engines.open import open_graph
from tubelet.export import gpu_graphs
from tubelet.export.digests import graphs_sha256
from tubelet.export.gpu_graphs import LowPrecision, make_gpu_graph
from tubelet.export.host import open_on_host
from tubelet.export.judge import MIN_VIEWS
from tubelet.export.tensorrt_ops import Finding, check_cuda_support, check_tensorrt_support
from tubelet.export.verify import verify_bundle
from tubelet.spec.engine import graph_file, plan_file
from tubelet.spec.errors import ContractError, InternalError, InvalidRequestError, TubeletError
from tubelet.spec.manifest import Manifest, Verification

ALL: tuple[LowPrecision, ...] = ("fp16", "bf16", "int8", "fp8")
EIGHT: tuple[LowPrecision, ...] = ("int8", "fp8")
DEMOS = ("motion", "motion_vtn", "motion_vidtr", "motion_cvidtr")
LOW = {"fp16": T.FLOAT16, "bf16": T.BFLOAT16, "int8": T.FLOAT16, "fp8": T.FLOAT16}


@pytest.fixture(scope="module")
def videos(make_video: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(4):
        (folder / f"{i}.mp4").write_bytes(make_video(20 + i, size=(32, 24)))
    return folder


@pytest.fixture(scope="module")
def made(tiny_bundle: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a graph of every precision."""
    bundle = tmp_path_factory.mktemp("made") / "tiny"
    shutil.copytree(tiny_bundle, bundle)
    shutil.copy(CHECKPOINT, bundle / "checkpoint")
    for precision in ALL:
        make_gpu_graph(bundle, precision, videos=videos if precision in EIGHT else None)
    return bundle


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """One that a test may spoil."""
    shutil.copytree(made, tmp_path / "tiny")
    return tmp_path / "tiny"


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def load(bundle: Path, precision: LowPrecision) -> onnx.ModelProto:
    return onnx.load(bundle / graph_file("encoder", precision, "gpu"))


def stored(model: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def encode(bundle: Path, precision: LowPrecision | None, units: Any) -> Any:
    contract = Manifest.load(bundle).contract
    if precision is None:
        engine = open_graph(bundle / "encoder.onnx", contract, EngineSettings.small("onnxruntime"))
    else:
        engine = open_on_host(bundle / graph_file("encoder", precision, "gpu"), contract)
    return next(iter(engine.run({"UNITS": units}).values()))


@pytest.mark.parametrize("precision", ALL)
def test_a_graph_says_whose_it_is_and_how_it_was_made(made: Path, tiny_bundle: Path, precision: LowPrecision) -> None:
    model = load(made, precision)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["contract_digest"] == Manifest.load(made).contract_digest
    assert (metadata["step"], metadata["precision"]) == ("encoder", precision)
    assert (metadata["attention_fused"], metadata["attention_left"]) == ("2", "0")
    assert metadata["quantised_layers"] == ("8" if precision in EIGHT else "0")
    assert ("calibration_tool" in metadata) == (precision in EIGHT)
    assert check_tensorrt_support(made / graph_file("encoder", precision, "gpu")) == []
    data = (made / graph_file("encoder", precision, "gpu")).read_bytes()
    assert str(made).encode() not in data
    for name, content in state(tiny_bundle).items():
        if name.endswith(".onnx"):
            assert state(made)[name] == content


@pytest.mark.parametrize("precision", ALL)
def test_most_weights_are_low_and_the_fragile_ones_are_not(made: Path, precision: LowPrecision) -> None:
    model = load(made, precision)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    assert norms
    assert {types[name] for node in norms for name in node.input[1:]} == {T.FLOAT}
    matrices = [
        tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2 and np.prod(tensor.dims) > 100
    ]
    wanted = {"int8": T.INT8, "fp8": T.FLOAT8E4M3FN}.get(precision, LOW[precision])
    assert set(matrices) == {wanted}
    (first,) = (node for node in model.graph.node if node.op_type == "Conv")
    assert types[first.input[1]] == LOW[precision]
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {T.FLOAT}
    assert {value.type.tensor_type.elem_type for value in model.graph.input} == {T.UINT8}


@pytest.mark.parametrize("precision", EIGHT)
def test_eight_bits_are_symmetric_and_around_linear_layers_only(made: Path, precision: LowPrecision) -> None:
    model = load(made, precision)
    arrays = stored(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in pairs:
        assert kinds[node.input[1]] == T.FLOAT16
        assert kinds[node.input[2]] == (T.INT8 if precision == "int8" else T.FLOAT8E4M3FN)
        assert not np.any(arrays[node.input[2]].astype(np.float32))
        assert np.all(arrays[node.input[1]].astype(np.float32) >= np.finfo(np.float16).tiny)
    ends = {node.output[0] for node in pairs if node.op_type == "DequantizeLinear"}
    takers = [node for node in model.graph.node if ends & set(node.input)]
    assert {node.op_type for node in takers} == {"MatMul"}
    assert all(set(node.input) <= ends for node in takers)
    assert len(takers) == 8
    per_channel = [arrays[producers[node.input[1]].input[1]] for node in takers]
    assert all(scale.ndim == 1 for scale in per_channel)


def test_both_kinds_of_eight_bits_have_one_calibration(made: Path) -> None:
    scales = [
        {
            node.name: stored(model)[node.input[1]].astype(np.float64)
            for node in model.graph.node
            if node.op_type == "QuantizeLinear"
        }
        for model in (load(made, "int8"), load(made, "fp8"))
    ]
    assert scales[0].keys() == scales[1].keys()
    for name, scale in scales[0].items():
        np.testing.assert_allclose(scale * 127, scales[1][name] * 448, rtol=2e-3, err_msg=name)


@pytest.mark.parametrize(("precision", "cosine"), [("fp16", 0.99999), ("bf16", 0.999), ("int8", 0.95), ("fp8", 0.95)])
def test_the_numbers_are_near_float32_and_not_the_same(made: Path, precision: LowPrecision, cosine: float) -> None:
    shape = Manifest.load(made).contract.unit_shape
    units = np.random.default_rng(0).integers(0, 256, (7, *shape), dtype=np.uint8)
    exact, found = encode(made, None, units), encode(made, precision, units)
    assert found.dtype == np.float32
    assert np.abs(found - exact).max() > 1e-5
    assert (found * exact).sum() / (np.linalg.norm(found) * np.linalg.norm(exact)) > cosine


def test_weights_beside_the_graph_are_the_same_weights(bundle: Path) -> None:
    shape = Manifest.load(bundle).contract.unit_shape
    units = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    inside = {precision: encode(bundle, precision, units) for precision in ("fp16", "bf16")}
    for precision in ("fp16", "bf16"):
        made = make_gpu_graph(bundle, precision, external_data_bytes=1000)
        assert made.weight_bytes > 1000
        assert (bundle / f"{made.file}.data").stat().st_size > 1000
        np.testing.assert_array_equal(encode(bundle, precision, units), inside[precision])
        assert check_tensorrt_support(bundle / made.file) == []


def test_a_graph_made_again_changes_nothing_and_another_one_drops_what_was_made_of_it(bundle: Path) -> None:
    manifest = Manifest.load(bundle)
    plan = bundle / plan_file("encoder", "fp16")
    plan.write_text("a plan")
    noted = _verification(manifest)
    Manifest(
        contract=manifest.contract,
        contract_digest=manifest.contract_digest,
        build=manifest.build.with_verified([noted]),
    ).save(bundle)
    before = state(bundle)
    make_gpu_graph(bundle, "fp16")
    assert state(bundle) == before
    make_gpu_graph(bundle, "fp16", external_data_bytes=1000)
    assert not plan.exists()
    left = Manifest.load(bundle).build.verified
    assert noted not in left
    assert left == manifest.build.verified
    assert "onnxruntime_host-fp16" not in json.loads((bundle / "parity.json").read_text())["results"]


def _verification(manifest: Manifest) -> Verification:
    some = manifest.build.verified[0]
    fields = {name: getattr(some, name) for name in Verification.__dataclass_fields__}
    return Verification(**fields | {"engine": "onnxruntime_host", "precision": "fp16"})


@pytest.mark.parametrize("fault", ["no videos", "another contract", "no encoder", "refused", "no such precision"])
def test_a_failure_leaves_the_bundle_as_it_was(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    error: type[TubeletError] = ContractError
    precision, match = "fp16", "export"
    if fault in ("another contract", "no encoder"):
        model = onnx.load(bundle / "encoder.onnx")
        del model.metadata_props[:]
        onnx.save(model, bundle / "encoder.onnx")
    if fault == "no encoder":
        (bundle / "encoder.onnx").unlink()
    if fault == "no videos":
        precision, error, match = "int8", InvalidRequestError, "give a folder of them with --videos"
    if fault == "no such precision":
        precision, error, match = "fp32", InvalidRequestError, "precision is fp16, bf16, fp8 or int8"
    if fault == "refused":
        finding = Finding("node_7", "Relu", "not today")
        monkeypatch.setattr(gpu_graphs, "check_tensorrt_support", lambda _: [finding])
        error, match = InternalError, r"gpu/encoder\.fp16\.onnx: node_7 \(Relu\): not today"
    before = state(bundle)
    with pytest.raises(error, match=match):
        make_gpu_graph(bundle, precision)  # type: ignore[arg-type]
    assert state(bundle) == before
    assert {path.name for path in tmp_path.iterdir()} == {"tiny"}


def test_the_digest_covers_the_graph_and_no_other_precisions(bundle: Path) -> None:
    contract = Manifest.load(bundle).contract

    def digests() -> list[str]:
        return [graphs_sha256(bundle, contract, precision, "onnxruntime_host") for precision in ("fp16", "bf16")]

    before = digests()
    path = bundle / graph_file("encoder", "fp16", "gpu")
    path.write_bytes(path.read_bytes() + b"\0")
    assert digests()[0] != before[0]
    assert digests()[1] == before[1]
    assert graphs_sha256(bundle, contract, "fp32") not in before


def test_verify_without_the_graph_says_so(tiny_bundle: Path, tmp_path: Path, videos: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "tiny")
    shutil.copy(CHECKPOINT, tmp_path / "tiny" / "checkpoint")
    many = tmp_path / "many"
    many.mkdir()
    for i in range(MIN_VIEWS // 6 + 1):
        shutil.copy(videos / "0.mp4", many / f"{i}.mp4")
    with pytest.raises(ContractError, match=r"gpu/encoder\.fp16\.onnx is not there; run tubelet engine"):
        verify_bundle(tmp_path / "tiny", checkpoint=None, videos=many, arithmetics=[("onnxruntime_host", "fp16")])


def test_demo_models_keep_their_budgets(
    demo_bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])  # where the checkpoints are found
    write_clips(tmp_path / "train", split="train", seed=7, count=32, workers=2)
    write_clips(tmp_path / "evaluation", split="evaluation", seed=11, count=MIN_VIEWS, workers=2)
    for name in ("motion", "motion_cvidtr"):
        bundle = tmp_path / name
        shutil.copytree(demo_bundle(name), bundle)
        for precision in ALL:
            made = make_gpu_graph(bundle, precision, videos=tmp_path / "train", num_clips=32)
            assert check_tensorrt_support(bundle / made.file) == []
            if precision not in EIGHT:
                assert check_cuda_support(bundle / made.file) == []
        found = verify_bundle(
            bundle,
            checkpoint=None,
            videos=tmp_path / "evaluation",
            arithmetics=[("onnxruntime_host", precision) for precision in ALL],
        )
        assert [verification.precision for verification in found] == list(ALL)
        assert all(verification.passed for verification in found)
        assert len({verification.graphs_sha256 for verification in found}) == len(ALL)
