"""The repository of target `gpu`: its configurations, and the answers of its graphs.

No Triton with GPU backends, no TensorRT and no card is needed here: the ensembles are walked by hand (`hand_triton`),
on the graphs that the repository holds, with a real sample step and real videos. The wheel's Triton cannot serve any
of it: it has the Python backend only.
"""

import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from hand_triton import CARD, TENSORRT, HandTriton, forget_steps, graphs_of_plans, read_configs, write_plans
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as pb

from tubelet.cli import main
from tubelet.export.gpu_graphs import make_gpu_graph
from tubelet.export.host import open_on_host
from tubelet.export.repository import write_repository
from tubelet.spec.engine import SERVED_BY, EngineName, Precision, Running
from tubelet.spec.errors import ContractError, InvalidRequestError, LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Manifest
from tubelet.spec.repository import RepositoryIndex

MODELS = ("motion", "motion_vtn", "motion_vidtr", "motion_cvidtr")
TOGETHER = {"motion_together": ["motion_vidtr", "motion_vtn"]}
ENGINES = SERVED_BY["gpu"]
BUDGET = 2e-4
"""Of fp32 logits, as between ONNX Runtime or OpenVINO and torch."""
REAL = ("action_segway_yard.mp4", "action_rock_climbing_portrait.mp4", "action_flipping_pancake.mkv")
PB_OF = {
    onnx.TensorProto.UINT8: pb.TYPE_UINT8,
    onnx.TensorProto.INT32: pb.TYPE_INT32,
    onnx.TensorProto.FLOAT: pb.TYPE_FP32,
}


@dataclass(frozen=True)
class Served:
    """Bundles, and what was written of them."""

    bundles: dict[str, Path]
    repository: Path
    index: RepositoryIndex
    engine: EngineName

    @property
    def configs(self) -> dict[str, pb.ModelConfig]:
        return read_configs(self.repository)


@pytest.fixture(scope="module")
def bundles(demo_bundle: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies, with stand-ins for plans beside the graphs."""
    folder = tmp_path_factory.mktemp("bundles")
    for name in MODELS:
        shutil.copytree(demo_bundle(name), folder / name)
        write_plans(folder / name, "fp32")
    return {name: folder / name for name in MODELS}


def write(
    bundles: dict[str, Path], out: Path, engine: EngineName, precision: Precision = "fp32", **options: Any
) -> Served:
    running = Running(engine=engine, precision=precision, mode=options.pop("mode", "latency"))
    limits = options.pop("limits", Limits())
    ensembles = TOGETHER if set(MODELS) <= set(bundles) else {}
    index = write_repository(
        list(bundles.values()),
        target=running.target,
        out=out,
        limits=limits,
        running=running,
        ensembles=ensembles,
        **options,
    )
    return Served(bundles, out, index, engine)


@pytest.fixture(scope="module")
def written(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[EngineName], Served]:
    """The repository of an engine at fp32, written once."""
    known: dict[EngineName, Served] = {}

    def get(engine: EngineName) -> Served:
        if engine not in known:
            known[engine] = write(bundles, tmp_path_factory.mktemp(engine), engine)
        return known[engine]

    return get


@pytest.fixture(scope="module")
def open_by_hand() -> Iterator[Callable[..., HandTriton]]:
    with pytest.MonkeyPatch.context() as patch:
        triton = MagicMock()
        patch.setitem(sys.modules, "triton_python_backend_utils", triton)
        forget_steps()
        yield lambda repository, **options: HandTriton(repository, triton, **options)
        forget_steps()


def of_video(video: bytes) -> dict[str, NDArray[Any]]:
    return {"VIDEO": np.array([video], np.object_)}


# Configurations


@pytest.mark.parametrize("engine", ENGINES)
def test_every_edge_agrees(written, engine: EngineName) -> None:
    """Name, type and shape, as Triton's core compares them: a batch counts as one more axis of any size."""
    configs = written(engine).configs
    publics = [config for config in configs.values() if config.platform == "ensemble"]
    assert len(publics) == 11
    for public in publics:
        given = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in public.input}
        taken = {tensor.name for tensor in public.output}
        for step in public.ensemble_scheduling.step:
            config = configs[step.model_name]
            inputs, outputs = ({t.name: t for t in tensors} for tensors in (config.input, config.output))
            assert {name for name, tensor in inputs.items() if not tensor.optional} <= set(step.input_map)
            assert set(step.output_map) <= set(outputs)
            for name, inner in step.input_map.items():
                assert_alike(given[inner], full(inputs[name], config), f"{inner} into {config.name}")
            assert not set(given) & set(step.output_map.values()), "a tensor is made twice"
            given |= {inner: full(outputs[name], config) for name, inner in step.output_map.items()}
            taken |= set(step.input_map.values())
        for tensor in public.output:
            assert_alike(given[tensor.name], (tensor.data_type, tuple(tensor.dims)), f"{tensor.name} of {public.name}")
        assert set(given) == taken, "Triton refuses a tensor that nobody takes"


def full(tensor: Any, config: pb.ModelConfig) -> tuple[int, tuple[int, ...]]:
    return tensor.data_type, (-1,) * bool(config.max_batch_size) + tuple(tensor.dims)


def assert_alike(a: tuple[int, tuple[int, ...]], b: tuple[int, tuple[int, ...]], where: str) -> None:
    assert a[0] == b[0], where
    assert len(a[1]) == len(b[1]), where
    assert all(x == y or -1 in (x, y) for x, y in zip(a[1], b[1], strict=True)), where


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_of_a_request_run_one_after_the_other(written, engine: EngineName) -> None:
    for config in written(engine).configs.values():
        for before, step in itertools.pairwise(config.ensemble_scheduling.step):
            assert set(before.output_map.values()) & set(step.input_map.values()), config.name


@pytest.mark.parametrize("engine", ENGINES)
def test_configurations_are_the_graphs_own(written, engine: EngineName) -> None:
    """Triton's ONNX Runtime compares each input and output with the file's: the outputs' shapes must be the same."""
    served = written(engine)
    stand_ins = {
        name: graph for b in served.bundles.values() for name, (graph, _) in graphs_of_plans(b, "fp32").items()
    }
    looked_at = 0
    for name, config in served.configs.items():
        if config.backend == "python" or config.platform == "ensemble":
            continue
        file = served.repository / name / "1" / config.default_model_filename
        assert file.is_file()
        if config.platform == "tensorrt_plan":
            assert file.read_bytes() == b"no plan"
            file = stand_ins[name]
        graph = onnx.load(file, load_external_data=False).graph
        for tensors, values in ((config.input, graph.input), (config.output, graph.output)):
            assert {t.name for t in tensors} == {value.name for value in values}, name
            shapes = {value.name: value.type.tensor_type for value in values}
            for tensor in tensors:
                found = shapes[tensor.name]
                assert tensor.data_type == PB_OF[found.elem_type], f"{tensor.name} of {name}"
                dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in found.shape.dim]
                assert list(full(tensor, config)[1]) == dims, f"{tensor.name} of {name}"
        looked_at += 1
    assert looked_at == 4 + 4 + 3 + 3


@pytest.mark.parametrize("engine", ENGINES)
def test_callers_cannot_tell_the_targets_apart(written, bundles, tmp_path: Path, engine: EngineName) -> None:
    cpu, gpu = write(bundles, tmp_path, "onnxruntime").configs, written(engine).configs
    for name, config in cpu.items():
        if config.platform == "ensemble":
            assert list(config.input) == list(gpu[name].input), name
            assert list(config.output) == list(gpu[name].output), name
            assert config.parameters["contract"] == gpu[name].parameters["contract"]
            labels = tmp_path / name / "labels.txt"
            assert labels.read_text() == (written(engine).repository / name / "labels.txt").read_text()
    assert {name for name, c in gpu.items() if c.platform == "ensemble"} == {
        name for name, c in cpu.items() if c.platform == "ensemble"
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_only_the_ends_are_on_the_host(written, engine: EngineName) -> None:
    for name, config in written(engine).configs.items():
        if config.platform == "ensemble":
            continue
        (group,) = config.instance_group
        on_host = name.rpartition("_")[2] in ("sample", "chunks", "report", "combine")
        assert (group.kind == pb.ModelInstanceGroup.KIND_CPU) == on_host == (config.backend == "python"), name
        assert list(group.gpus) == ([] if on_host else [0])
        assert config.parameters["contract_digest"].string_value.startswith("sha256:")
        assert name.endswith(("report", "combine", "chunks")) or config.model_warmup


def test_what_a_repository_says_of_itself(written) -> None:
    index = written("tensorrt").index
    assert index == RepositoryIndex.load(written("tensorrt").repository)
    assert index.target == "gpu"
    assert {(model.tensorrt, model.gpu) for model in index.models} == {(TENSORRT, CARD.name)}
    assert not any(model.verified for model in index.models)
    assert {(model.tensorrt, model.gpu) for model in written("onnxruntime_cuda").index.models} == {(None, None)}
    by_name = {model.name: model for model in index.models}
    assert by_name["motion"].device_pool_bytes >= 64 * 2**20
    assert by_name["motion"].pinned_pool_bytes >= 256 * 2**20
    assert (by_name["motion_together"].device_pool_bytes, by_name["motion_together"].pinned_pool_bytes) == (0, 0)


def test_a_plan_that_brings_a_runtime_is_announced(bundles, tmp_path: Path) -> None:
    bundle = tmp_path / "motion"
    shutil.copytree(bundles["motion"], bundle)
    write_plans(bundle, "fp32")
    about = bundle / "gpu" / "temporal.plan.json"
    data = json.loads(about.read_text())
    about.write_text(json.dumps(data | {"options": data["options"] | {"compatible_versions": True}}))
    (model,) = write({"motion": bundle}, tmp_path / "out", "tensorrt", "fp32").index.models
    assert model.host_code
    assert model.tensorrt == TENSORRT, "the encoder's plan brings none"
    (model,) = write({"motion": bundle}, tmp_path / "out", "onnxruntime_cuda", "fp32").index.models
    assert not model.host_code


# Plans


def test_what_no_plan_was_built_for_is_refused(bundles, tmp_path: Path) -> None:
    bundle = tmp_path / "motion"
    shutil.copytree(bundles["motion"], bundle)

    def attempt(precision: Precision = "fp32", engine: EngineName = "tensorrt") -> None:
        write({"motion": bundle}, tmp_path / "out", engine, precision)

    with pytest.raises(InvalidRequestError, match=r"motion has no graph .* run: tubelet engine .* --precision fp16"):
        attempt("fp16")
    attempt()
    (bundle / "gpu" / "encoder.fp32.plan").write_bytes(b"another")
    with pytest.raises(ContractError, match=r"encoder.fp32.plan says .* build it again: tubelet engine"):
        attempt()
    write_plans(bundle, "fp32")
    about = bundle / "gpu" / "encoder.fp32.plan.json"
    text = about.read_text()
    about.write_text(json.dumps(json.loads(text) | {"contract_digest": "sha256:0"}))
    with pytest.raises(ContractError, match="its contract"):
        attempt()
    about.write_text(json.dumps(json.loads(text) | {"graph_sha256": "0"}))
    with pytest.raises(ContractError, match=r"of encoder.onnx"):
        attempt()
    about.write_text(json.dumps(json.loads(text) | {"tensorrt": "11.4.0.1"}))
    with pytest.raises(ContractError, match=r"need 11.2.1.2 and 11.4.0.1 at a time"):
        attempt()
    about.unlink()
    with pytest.raises(ContractError, match=r"tubelet engine"):
        attempt()
    (bundle / "gpu" / "temporal.plan").unlink()
    about.write_text(text)
    with pytest.raises(InvalidRequestError, match="no TensorRT plan of step temporal at fp32"):
        attempt()
    attempt(engine="onnxruntime_cuda")


def test_the_command_writes_it(bundles, tmp_path: Path) -> None:
    out = tmp_path / "repository"

    def command(*options: str) -> Result:
        return CliRunner().invoke(main, ["repository", str(bundles["motion"]), "--out", str(out), *options])

    done = command("--target", "gpu", "--decoder", "nvdec", "--mode", "throughput")
    assert done.exit_code == 0, done.output
    assert "1 model for target gpu, tensorrt fp32, throughput" in done.output
    assert "tensorrt fp32 is not verified; tubelet serve will refuse it" in done.output
    sample = read_configs(out)["motion_sample"]
    assert sample.parameters["decoder"].string_value == "nvdec"
    for options, message in (
        (("--target", "gpu", "--engine", "openvino"), "target gpu is served by tensorrt, onnxruntime_tensorrt"),
        (("--target", "cpu", "--engine", "tensorrt"), "target cpu is served by openvino, onnxruntime"),
        (("--target", "cpu", "--decoder", "nvdec"), "on target cpu the processor decodes"),
        (("--target", "gpu", "--engine", "onnxruntime_host"), "onnxruntime_host"),
        (("--target", "gpu", "--engine", "onnxruntime_cuda", "--precision", "int8"), "has fp32, fp16, bf16, not int8"),
    ):
        refused = command(*options)
        assert refused.exit_code == 2, options
        assert message in " ".join(refused.output.replace("│", " ").split())


# Answers


@pytest.fixture(scope="module")
def on_processors(bundles, open_by_hand, tmp_path_factory: pytest.TempPathFactory) -> HandTriton:
    """Target `cpu`, by ONNX Runtime too."""
    return open_by_hand(write(bundles, tmp_path_factory.mktemp("cpu"), "onnxruntime").repository)


@pytest.fixture(scope="module", params=["onnxruntime_cuda", "tensorrt"])
def on_card(request: pytest.FixtureRequest, written, open_by_hand) -> HandTriton:
    served = written(request.param)
    graphs = {
        name: plan for bundle in served.bundles.values() for name, plan in graphs_of_plans(bundle, "fp32").items()
    }
    return open_by_hand(served.repository, graphs=graphs)


@pytest.mark.parametrize("file", REAL)
@pytest.mark.parametrize(
    ("model", "protocol"),
    [
        *itertools.product(["motion", "motion_vidtr", "motion_cvidtr", "motion_vtn"], ["1x1", "4x3", "10x3", "tsn"]),
        ("motion_vtn", "full"),
        ("motion_vtn", "full200"),
        ("motion_together", "4x3"),
    ],
)
def test_the_graphs_give_the_logits_of_target_cpu(
    on_card: HandTriton, on_processors: HandTriton, videos_dir: Path, file: str, model: str, protocol: str
) -> None:
    video = of_video((videos_dir / file).read_bytes())
    found, expected = (each.infer(model, video, {"protocol": protocol}) for each in (on_card, on_processors))
    assert_same_answer(found, expected)


def test_decoded_frames_give_the_same(on_card: HandTriton, on_processors: HandTriton) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (40, 60, 90, 3), np.uint8)
    given: dict[str, NDArray[Any]] = {"FRAMES": frames, "FPS": np.array([25], np.float32)}
    for model in ("motion_frames", "motion_vtn_frames"):
        assert_same_answer(*(each.infer(model, given, {"protocol": "4x3"}) for each in (on_card, on_processors)))


def assert_same_answer(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    assert set(found) == set(expected)
    for name in {"FRAME_TIMES", "CLIP_SPANS", "POSITIONS"} & set(found):
        np.testing.assert_array_equal(found[name], expected[name])
    for name in {"LOGITS", "PROBABILITIES", "VIEW_LOGITS", "ATTENTION", "FEATURES"} & set(found):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=BUDGET, err_msg=name)
    report, alike = (json.loads(tensors["REPORT"][0]) for tensors in (found, expected))
    assert_same_report(report, alike)


def assert_same_report(report: dict[str, Any], alike: dict[str, Any]) -> None:
    times = report.pop("milliseconds"), alike.pop("milliseconds")
    assert list(times[0]) == [*(name for name in times[1] if name in ("decode", "resize")), "gpu", "total"]
    assert all(value >= 0 for value in times[0].values())
    for name, member in report.pop("members", {}).items():
        assert_same_report(member, alike["members"][name])
    alike.pop("members", None)
    best, expected = report.pop("top"), alike.pop("top")
    assert best == pytest.approx(expected, abs=BUDGET)
    assert report == alike


@pytest.mark.parametrize("protocol", ["1x1", "10x3", "full200", "full40"])
def test_the_other_ways_into_a_model(
    on_card: HandTriton, on_processors: HandTriton, videos_dir: Path, protocol: str
) -> None:
    """Units as they come, features that were computed before, and those that are given back."""
    video = of_video((videos_dir / REAL[0]).read_bytes())
    wishes = {"protocol": protocol}
    whole = on_card.infer("motion_vtn", video, wishes, with_features=True)
    assert_same_answer(whole, on_processors.infer("motion_vtn", video, wishes, with_features=True))
    chunked = on_card.infer("motion_vtn_chunked", video, wishes, with_features=True)
    assert_same_answer(chunked, on_processors.infer("motion_vtn_chunked", video, wishes, with_features=True))
    np.testing.assert_allclose(chunked["LOGITS"], whole["LOGITS"], rtol=0, atol=BUDGET)
    given = {name: whole[name] for name in ("FEATURES", "POSITIONS")}
    again, alike = (each.infer("motion_vtn_features", given) for each in (on_card, on_processors))
    assert_same_answer(again, alike)
    np.testing.assert_allclose(again["LOGITS"], whole["LOGITS"], rtol=0, atol=BUDGET)


def test_more_than_a_plan_takes_is_refused_by_name(on_card: HandTriton, videos_dir: Path) -> None:
    video = of_video((videos_dir / REAL[0]).read_bytes())
    largest = on_card.configs["motion_vtn_encoder"].max_batch_size
    with pytest.raises(LimitError, match=f"max_units is {largest}"):
        on_card.infer("motion_vtn", video, {"protocol": f"full{largest + 1}"})
    assert on_card.ran[-1] == "motion_vtn_sample"
    assert (
        on_card.infer("motion_vtn_chunked", video, {"protocol": f"full{largest + 1}"})["ATTENTION"].shape[1] > largest
    )
    features = {"FEATURES": np.zeros((2, 700, 96), np.float32), "POSITIONS": np.zeros((2, 700), np.int32)}
    if on_card.configs["motion_vtn_temporal"].platform == "tensorrt_plan":
        with pytest.raises(LimitError, match=r"too_many_views: FEATURES of 2 views of 700 units came; the model was"):
            on_card.infer("motion_vtn_features", features)


# Lower precision


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_lower_precision_keeps_its_budget(
    bundles, on_processors: HandTriton, open_by_hand, videos_dir: Path, tmp_path: Path, precision: Any
) -> None:
    bundle = tmp_path / "motion"
    shutil.copytree(bundles["motion"], bundle)
    make_gpu_graph(bundle, precision)
    served = write({"motion": bundle}, tmp_path / "repository", "onnxruntime_cuda", precision)
    contract = Manifest.load(bundle).contract
    assert (served.repository / "motion_encoder" / "1" / f"encoder.{precision}.onnx").is_file()
    by_hand = open_by_hand(served.repository, session=lambda graph: open_on_host(graph, contract).run)
    for file in REAL:
        video = of_video((videos_dir / file).read_bytes())
        found, expected = (
            each.infer("motion", video, {"protocol": "4x3"})["VIEW_LOGITS"].ravel() for each in (by_hand, on_processors)
        )
        assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) > 0.999
        assert not np.array_equal(found, expected)
