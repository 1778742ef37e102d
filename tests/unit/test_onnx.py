"""The graphs of a bundle: what each computes at any size, and what their files hold."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CHECKPOINT, TINY, recipe_data

from tubelet.engines.base import Engine, EngineSettings
from tubelet.engines.open import open_engine
from tubelet.export.bundle import load_plan
from tubelet.export.graphs import EncodeUnits
from tubelet.export.onnx import OPSET, export_graphs
from tubelet.models.network import TwoStageVideoNetwork
from tubelet.preprocess.geometry import cut_units
from tubelet.preprocess.normalise import normalise
from tubelet.spec.engine import EngineName, graph_file
from tubelet.spec.manifest import Contract, Manifest
from tubelet.spec.pipeline import Normalisation
from tubelet.spec.recipe import Recipe
from tubelet.spec.strict import decode
from tubelet.spec.tensors import GRAPH_STEPS, step_tensors

ONNX_TYPES = {"UINT8": onnx.TensorProto.UINT8, "INT32": onnx.TensorProto.INT32, "FP32": onnx.TensorProto.FLOAT}


@pytest.fixture(scope="module")
def contract(tiny_bundle: Path) -> Contract:
    return Manifest.load(tiny_bundle).contract


@pytest.fixture(scope="module")
def model() -> TwoStageVideoNetwork:
    network = load_plan(decode(Recipe, recipe_data(), where="recipe"), CHECKPOINT)
    assert isinstance(network, TwoStageVideoNetwork)
    return network


@pytest.fixture(scope="module", params=["openvino", "onnxruntime"])
def engine_name(request: pytest.FixtureRequest) -> EngineName:
    name: EngineName = request.param
    return name


@pytest.fixture(scope="module")
def engines(tiny_bundle: Path, engine_name: EngineName) -> dict[str, Engine]:
    settings = EngineSettings.small(engine_name)
    return {step: open_engine(tiny_bundle / graph_file(step), settings) for step in GRAPH_STEPS}


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_units_graph_cuts_the_same_bytes_as_numpy(
    engines: dict[str, Engine], contract: Contract, data: st.DataObject
) -> None:
    side, t = contract.crop.size_px, contract.geometry.unit_frames
    size = {name: data.draw(st.integers(1, 5), label=name) for name in ("F", "U", "R")}
    height, width = (side + data.draw(st.integers(0, 7), label=name) for name in ("dy", "dx"))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    frames = rng.integers(0, 256, size=(size["F"], height, width, 3), dtype=np.uint8)
    unit_frames = rng.integers(0, size["F"], size=(size["U"], t), dtype=np.int32)
    crops = rng.integers(0, [height - side + 1, width - side + 1], size=(size["R"], 2)).astype(np.int32)
    found = engines["units"].run({"FRAMES": frames, "UNIT_FRAMES": unit_frames, "CROPS": crops})["UNITS"]
    np.testing.assert_array_equal(found, cut_units(frames, unit_frames, crops, size_px=side))


@pytest.mark.parametrize("num_units", [1, 2, 7])
def test_encoder_graph_takes_bytes_in_any_number(
    engines: dict[str, Engine], contract: Contract, model: TwoStageVideoNetwork, num_units: int
) -> None:
    rng = np.random.default_rng(num_units)
    units = rng.integers(0, 256, size=(num_units, *contract.unit_shape), dtype=np.uint8)
    found = engines["encoder"].run({"UNITS": units})["FEATURES"]
    with torch.inference_mode():
        wanted = model.encode(torch.from_numpy(normalise(contract.normalisation, units))).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("num_clips", "num_crops"), [(1, 1), (1, 3), (4, 1), (10, 3)])
def test_temporal_graph_finds_each_views_features(
    engines: dict[str, Engine], contract: Contract, model: TwoStageVideoNetwork, num_clips: int, num_crops: int
) -> None:
    rng = np.random.default_rng(num_clips)
    num_units = contract.units_per_clip + num_clips
    features = rng.standard_normal((num_units * num_crops, model.feature_dim)).astype(np.float32)
    clip_units = rng.integers(0, num_units, size=(num_clips, contract.units_per_clip), dtype=np.int32)
    crops = np.zeros((num_crops, 2), np.int32)
    feeds = {"FEATURES": features, "CLIP_UNITS": clip_units, "CROPS": crops}
    found = engines["temporal"].run(feeds)["VIEW_LOGITS"]
    views = [features[clip_units[k] * num_crops + r] for k in range(num_clips) for r in range(num_crops)]
    with torch.inference_mode():
        wanted = model.classify(torch.from_numpy(np.stack(views))).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_views", [1, 2, 30])
def test_average_graph_averages_logits_then_applies_softmax(engines: dict[str, Engine], num_views: int) -> None:
    view_logits = np.random.default_rng(0).standard_normal((num_views, 5)).astype(np.float32)
    found = engines["average"].run({"VIEW_LOGITS": view_logits})
    mean = view_logits.mean(axis=0)
    np.testing.assert_allclose(found["LOGITS"], mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["PROBABILITIES"], np.exp(mean) / np.exp(mean).sum(), rtol=0, atol=1e-6)


def test_mean_and_std_are_per_channel(model: TwoStageVideoNetwork, contract: Contract) -> None:
    imagenet = Normalisation(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    units = torch.randint(0, 256, (2, *contract.unit_shape), dtype=torch.uint8)
    with torch.inference_mode():
        found = EncodeUnits(model, imagenet)(units)
        wanted = model.encode(torch.from_numpy(normalise(imagenet, units.numpy())))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_chain_of_graphs_gives_the_stored_logits(engines: dict[str, Engine], contract: Contract) -> None:
    clips = np.load(TINY / "clips.npy")
    n = contract.units_per_clip
    clip_units = np.arange(len(clips) * n, dtype=np.int32).reshape(-1, n)
    frames = clips.reshape(-1, *clips.shape[2:])
    unit_frames = np.arange(len(frames), dtype=np.int32).reshape(-1, contract.geometry.unit_frames)
    crops = np.zeros((1, 2), np.int32)
    units = engines["units"].run({"FRAMES": frames, "UNIT_FRAMES": unit_frames, "CROPS": crops})["UNITS"]
    features = engines["encoder"].run({"UNITS": units})["FEATURES"]
    feeds = {"FEATURES": features, "CLIP_UNITS": clip_units, "CROPS": crops}
    found = engines["temporal"].run(feeds)["VIEW_LOGITS"]
    np.testing.assert_allclose(found, np.load(TINY / "logits.npy"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("step", GRAPH_STEPS)
def test_graphs_have_the_tensors_of_the_contract(tiny_bundle: Path, contract: Contract, step: str) -> None:
    graph = onnx.load(tiny_bundle / graph_file(step)).graph
    inputs, outputs = step_tensors(contract)[step]  # type: ignore[index]
    promised = {spec.name: spec for spec in (*inputs, *outputs)}
    found = [*graph.input, *graph.output]
    assert [value.name for value in found] == [name for name in promised if name in {value.name for value in found}]
    for value in found:
        spec, tensor = promised[value.name], value.type.tensor_type
        shape = tuple(-1 if dim.dim_param else dim.dim_value for dim in tensor.shape.dim)
        assert tensor.elem_type == ONNX_TYPES[spec.dtype], value.name
        assert shape == ((-1, *spec.shape) if step == "encoder" else spec.shape), value.name


@pytest.mark.parametrize("step", GRAPH_STEPS)
def test_graph_files_name_their_contract_and_nothing_of_the_machine(
    tiny_bundle: Path, contract: Contract, step: str
) -> None:
    model = onnx.load(tiny_bundle / graph_file(step))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata == {"contract_digest": contract.digest, "step": step}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    data = (tiny_bundle / graph_file(step)).read_bytes()
    assert not [word for word in (b"stack_trace", b".py", str(Path.cwd()).encode()) if word in data]


def test_large_weights_lie_beside_the_graph(
    tmp_path: Path,
    engines: dict[str, Engine],
    engine_name: EngineName,
    contract: Contract,
    model: TwoStageVideoNetwork,
) -> None:
    names = list(export_graphs(model, contract, out=tmp_path, external_data_bytes=16_000))
    assert names == [graph_file(step) for step in GRAPH_STEPS]
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {*names, "encoder.onnx.data"}
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}_moved"))
    units = np.random.default_rng(0).integers(0, 256, size=(3, *contract.unit_shape), dtype=np.uint8)
    found = open_engine(moved / "encoder.onnx", EngineSettings.small(engine_name)).run({"UNITS": units})["FEATURES"]
    np.testing.assert_array_equal(found, engines["encoder"].run({"UNITS": units})["FEATURES"])
    assert (moved / "encoder.onnx").stat().st_size < (moved / "encoder.onnx.data").stat().st_size


def test_same_weights_give_the_same_files(
    tmp_path: Path, tiny_bundle: Path, contract: Contract, model: TwoStageVideoNetwork
) -> None:
    for name in export_graphs(model, contract, out=tmp_path):
        assert (tmp_path / name).read_bytes() == (tiny_bundle / name).read_bytes(), name
