"""int8: calibrated on videos, judged on others, and never there by halves."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from tiny import CHECKPOINT

from tubelet.cli import main
from tubelet.demo.clips import write_clips
from tubelet.engines.base import EngineSettings
from tubelet.engines.open import open_graph
from tubelet.engines.openvino import has_bf16
from tubelet.export import quantise
from tubelet.export.judge import MIN_VIEWS
from tubelet.export.quantise import quantise_bundle
from tubelet.export.repository import write_repository
from tubelet.export.samples import spread
from tubelet.export.verify import verify_bundle
from tubelet.spec.engine import Arithmetic, EngineName, Running
from tubelet.spec.errors import ContractError, ExportMismatchError, InvalidRequestError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Manifest, Verification

INT8: tuple[Arithmetic, ...] = (("openvino", "int8"), ("onnxruntime", "int8"))


@pytest.fixture(scope="module")
def videos(make_video: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As few as can be judged: each gives six views."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(MIN_VIEWS // 6 + 1):
        (folder / f"{i:02}.mp4").write_bytes(make_video(20 + i, size=(32, 24)))
    return folder


@pytest.fixture(scope="module")
def quantised(tiny_bundle: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("quantised") / "tiny"
    shutil.copytree(tiny_bundle, bundle)
    shutil.copy(CHECKPOINT, bundle / "checkpoint")
    quantise_bundle(bundle, videos=videos, num_clips=4)
    return bundle


@pytest.fixture
def bundle(quantised: Path, tmp_path: Path) -> Path:
    """A quantised bundle that a test may spoil."""
    shutil.copytree(quantised, tmp_path / "tiny")
    return tmp_path / "tiny"


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def spoil(graph: Path) -> None:
    """Moves every number of the largest initializer to another place."""
    model = onnx.load(graph)
    tensor = max(model.graph.initializer, key=lambda t: numpy_helper.to_array(t).size)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.flip(values).copy(), tensor.name))
    onnx.save(model, graph)


def numbers(graph: Path) -> dict[str, Any]:
    """Every initializer of a graph."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(graph).graph.initializer}


def of(manifest: Manifest, precision: str) -> list[Verification]:
    return [found for found in manifest.build.verified if found.precision == precision]


def test_the_graph_has_integers_and_says_whose_it_is(quantised: Path, tiny_bundle: Path) -> None:
    manifest = Manifest.load(quantised)
    model = onnx.load(quantised / "encoder.int8.onnx")
    assert manifest.build.int8 is not None
    assert manifest.build.int8.num_clips == 4
    assert manifest.build.int8.num_units == 16
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["contract_digest"] == manifest.contract_digest
    assert metadata["calibration_num_units"] == "16"
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1}
    assert onnx.TensorProto.INT8 in kinds
    assert (quantised / "encoder.int8.onnx").read_bytes().find(str(quantised).encode()) < 0
    assert state(quantised)["encoder.onnx"] == state(tiny_bundle)["encoder.onnx"]


def test_the_first_layer_keeps_its_numbers(quantised: Path) -> None:
    weights = {}
    for name in ("encoder.onnx", "encoder.int8.onnx"):
        model = onnx.load(quantised / name)
        first = next(node for node in model.graph.node if node.op_type in quantise.LAYERS)
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        weights[name] = tensors[first.input[1]]
    np.testing.assert_array_equal(weights["encoder.int8.onnx"], weights["encoder.onnx"])


def test_both_engines_run_it_alike_and_much_like_fp32(quantised: Path) -> None:
    contract = Manifest.load(quantised).contract
    units = np.random.default_rng(0).integers(0, 256, (7, *contract.unit_shape), dtype=np.uint8)

    def encode(engine: EngineName, graph: str) -> Any:
        return open_graph(quantised / graph, contract, EngineSettings.small(engine)).run({"UNITS": units})["FEATURES"]

    exact = encode("openvino", "encoder.onnx")
    one, other = (encode(engine, "encoder.int8.onnx") for engine in ("openvino", "onnxruntime"))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-3)
    assert np.abs(one - exact).max() > 1e-3
    assert (one * exact).sum() / (np.linalg.norm(one) * np.linalg.norm(exact)) > 0.95


def test_the_same_clips_give_the_same_graph(bundle: Path, videos: Path) -> None:
    before = (bundle / "encoder.int8.onnx").read_bytes()
    quantise_bundle(bundle, videos=videos, num_clips=4)
    assert (bundle / "encoder.int8.onnx").read_bytes() == before


def test_what_was_found_of_an_older_graph_is_forgotten(bundle: Path, videos: Path) -> None:
    with suppress(ExportMismatchError):  # a random network's decisions hang by a thread
        verify_bundle(bundle, checkpoint=None, videos=videos, arithmetics=INT8)
    assert len(of(Manifest.load(bundle), "int8")) == 2
    manifest = quantise_bundle(bundle, videos=videos, num_clips=2)
    assert of(manifest, "int8") == []
    assert len(of(manifest, "fp32")) == 2
    assert list(json.loads((bundle / "parity.json").read_text())["results"]) == ["onnxruntime-fp32", "openvino-fp32"]


@pytest.mark.parametrize("fault", ["no videos", "no video among them", "another contract", "no encoder", "no memory"])
def test_a_failure_leaves_the_bundle_as_it_was(
    bundle: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    error: type[Exception] = InvalidRequestError
    if fault == "no video among them":
        (folder / "notes.txt").write_text("no video")
    if fault in ("another contract", "no encoder"):
        folder, error = videos, ContractError
        model = onnx.load(bundle / "encoder.onnx")
        del model.metadata_props[:]
        onnx.save(model, bundle / "encoder.onnx")
        if fault == "no encoder":
            (bundle / "encoder.onnx").unlink()
    if fault == "no memory":
        folder, error = videos, MemoryError

        def fail(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(quantise, "write_parity", fail)  # when all else is written
    before = state(bundle)
    with pytest.raises(error):
        quantise_bundle(bundle, videos=folder, num_clips=2)
    assert state(bundle) == before
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "empty"}


def test_weights_beside_the_graph_are_read(bundle: Path, videos: Path) -> None:
    inside = numbers(bundle / "encoder.int8.onnx")
    model = onnx.load(bundle / "encoder.onnx")
    onnx.save(
        model, bundle / "encoder.onnx", save_as_external_data=True, location="encoder.onnx.data", size_threshold=256
    )
    assert (bundle / "encoder.onnx.data").stat().st_size > 1000
    quantise_bundle(bundle, videos=videos, num_clips=4)
    np.testing.assert_equal(numbers(bundle / "encoder.int8.onnx"), inside)


def test_a_graph_that_is_too_large_is_refused_at_once(
    bundle: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "MOST_BYTES", 20_000)
    with pytest.raises(
        InvalidRequestError, match=r"encoder\.onnx has 0\.0 GB, int8 is made of graphs up to .* take bf16"
    ):
        quantise_bundle(bundle, videos=videos, num_clips=1)


def test_bf16_and_int8_need_enough_real_views(bundle: Path, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="real clips; give a folder of them with --videos"):
        verify_bundle(bundle, checkpoint=None, videos=None, arithmetics=INT8)
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(videos.iterdir())[1:]:
        shutil.copy(path, few)
    with pytest.raises(InvalidRequestError, match="at least 100 views of real clips, these videos give 96"):
        verify_bundle(bundle, checkpoint=None, videos=few, arithmetics=INT8)
    (few / "00.mp4").write_text("no video")  # enough files, too few videos
    with pytest.raises(InvalidRequestError, match="these videos give 96"):
        verify_bundle(bundle, checkpoint=None, videos=few, arithmetics=INT8)
    assert of(Manifest.load(bundle), "int8") == []


def test_a_spoilt_graph_is_exit_code_1_and_is_noted(bundle: Path, videos: Path) -> None:
    spoil(bundle / "encoder.int8.onnx")
    options = ["--engine", "onnxruntime", "--precision", "int8", "--videos", str(videos)]
    result = CliRunner().invoke(main, ["verify", str(bundle), *options])
    assert result.exit_code == 1
    assert "error: over_budget: onnxruntime int8, views of 17 clips, together" in result.output
    (noted,) = of(Manifest.load(bundle), "int8")
    assert not noted.passed
    assert noted.num_clips == 17
    assert json.loads((bundle / "parity.json").read_text())["results"]["onnxruntime-int8"]["passed"] is False


def test_a_demo_model_passes_and_its_graph_cannot_be_exchanged_afterwards(
    motion_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])  # where the checkpoint is found
    bundle = tmp_path / "motion"
    shutil.copytree(motion_bundle, bundle)
    write_clips(tmp_path / "train", split="train", seed=7, count=48, workers=2)
    write_clips(tmp_path / "evaluation", split="evaluation", seed=11, count=MIN_VIEWS, workers=2)
    quantise_bundle(bundle, videos=tmp_path / "train", num_clips=48)
    arithmetics = (*INT8, ("openvino", "bf16")) if has_bf16() else INT8
    found = verify_bundle(bundle, checkpoint=None, videos=tmp_path / "evaluation", arithmetics=arithmetics)
    assert all(verification.passed for verification in found)
    assert {verification.num_clips for verification in found} == {MIN_VIEWS}

    running = Running(engine="openvino", precision="int8", mode="latency")
    repository = tmp_path / "repository"
    (model,) = write_repository([bundle], target="cpu", out=repository, limits=Limits(), running=running).models
    assert model.verified
    assert model.running == running
    placed = repository / "motion_encoder" / "1"
    assert {path.name for path in placed.glob("*.onnx")} == {"encoder.int8.onnx"}
    spoil(bundle / "encoder.int8.onnx")
    (model,) = write_repository([bundle], target="cpu", out=repository, limits=Limits(), running=running).models
    assert not model.verified


def test_int8_without_its_graph_names_the_command(tiny_bundle: Path, tmp_path: Path) -> None:
    running = Running(engine="openvino", precision="int8", mode="latency")
    with pytest.raises(InvalidRequestError, match="tiny has no int8 graph; run: tubelet quantise"):
        write_repository([tiny_bundle], target="cpu", out=tmp_path / "out", limits=Limits(), running=running)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["verify", "repository"])
def test_bf16_by_onnx_runtime_is_wrong_usage(tiny_bundle: Path, tmp_path: Path, command: str) -> None:
    more = ["--target", "cpu", "--out", str(tmp_path / "out")] if command == "repository" else []
    options = ["--engine", "onnxruntime", "--precision", "bf16", *more]
    result = CliRunner().invoke(main, [command, str(tiny_bundle), *options])
    assert result.exit_code == 2
    assert "onnxruntime has fp32, int8, not bf16" in result.output


def test_clips_are_spread_evenly() -> None:
    assert spread(10, 4).tolist() == [0, 3, 6, 9]
    assert spread(3, 4).tolist() == [0, 1, 2]
    assert spread(100, 1).tolist() == [0]
    assert len(set(spread(257, 64).tolist())) == 64
