"""Configurations of target `gpu`, for every kind of model: what Triton checks, and that no request falls between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from strategies import contracts, protocol_names
from tritonclient.grpc import model_config_pb2 as pb
from vivits import small_vivit
from vtns import small_vtn

from tubelet.export.configs_gpu import gpu_configs, most_waiting
from tubelet.export.gpu_model import GpuModel, device_pool_bytes, pinned_pool_bytes
from tubelet.export.onnx import export_graphs
from tubelet.export.profiles import plan_profiles, plan_steps
from tubelet.spec.build import Build, Checkpoint
from tubelet.spec.engine import SERVED_BY, EngineName, Mode, Running
from tubelet.spec.errors import InvalidRequestError, LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract, Geometry, Head, Manifest
from tubelet.spec.request import Request
from tubelet.spec.tensors import CHAINS, step_tensors, ways_in

ENGINES = st.sampled_from(SERVED_BY["gpu"])
MODES: st.SearchStrategy[Mode] = st.sampled_from(["latency", "throughput"])
LIMITS = st.builds(Limits, max_views=st.integers(30, 100), max_units=st.integers(1, 5000))


def model_of(
    contract: Contract,
    engine: EngineName = "tensorrt",
    mode: Mode = "latency",
    limits: Limits | None = None,
    largest_batch: int = 16,
) -> GpuModel:
    limits = limits or Limits()
    checkpoint = Checkpoint(format="tubelet", file="x", sha256="0" * 64, source="here", licence="MIT")
    build = Build(
        checkpoint=checkpoint,
        num_parameters=1,
        opset=20,
        largest_batch=largest_batch,
        tools={},
        int8=None,
        verified=(),
    )
    shapes = {
        step: plan_profiles(contract, step, largest_batch=largest_batch, limits=limits)
        for step in plan_steps(contract)
        if step == "encoder" or engine == "tensorrt"
    }
    return GpuModel(
        manifest=Manifest(contract=contract, contract_digest=contract.digest, build=build),
        running=Running(engine=engine, precision="fp16", mode=mode),
        limits=limits,
        decoder="nvdec",
        encoder_sha256="0123456789abcdef" * 4,
        encoder=shapes["encoder"],
        temporal=shapes.get("temporal", ()),
    )


@given(contracts(), ENGINES, MODES, LIMITS)
def test_what_triton_checks_holds_for_every_model(
    contract: Contract, engine: EngineName, mode: Mode, limits: Limits
) -> None:
    model = model_of(contract, engine, mode, limits)
    configs = gpu_configs(model)
    assert set(configs) == {f"{contract.name}_{step}" for step in step_tensors(contract, "gpu")} | {
        name for name, _ in ways_in(contract).values()
    }
    for name, config in configs.items():
        assert text_format.Parse(text_format.MessageToString(config), pb.ModelConfig()) == config
        assert config.name == name
        assert bool(config.platform) != bool(config.backend)
        batching = config.dynamic_batching
        assert all(0 < size <= config.max_batch_size for size in batching.preferred_batch_size)
        if batching.priority_levels:
            assert 1 <= batching.default_priority_level <= batching.priority_levels
            assert batching.default_queue_policy.default_timeout_microseconds > 0, "else no override is heeded"
        for warmup in config.model_warmup:
            assert 1 <= warmup.batch_size <= max(1, config.max_batch_size)
            assert set(warmup.inputs) <= {tensor.name for tensor in config.input}
    for way, (name, _) in ways_in(contract).items():
        scheduling = configs[name].ensemble_scheduling
        chain = [step for step in CHAINS[way] if step in step_tensors(contract, "gpu")]
        assert [step.model_name for step in scheduling.step] == [f"{contract.name}_{step}" for step in chain]
        assert scheduling.max_inflight_requests == most_waiting(limits, mode) > 2 * limits.queue_size


@given(contracts(), MODES)
def test_plans_run_what_they_were_built_for(contract: Contract, mode: Mode) -> None:
    model = model_of(contract, mode=mode)
    configs = gpu_configs(model)
    for step, profiles in (("encoder", model.encoder), ("temporal", model.temporal)):
        if not profiles:
            continue
        config = configs[f"{contract.name}_{step}"]
        assert (config.platform, config.default_model_filename) == ("tensorrt_plan", "model.plan")
        assert list(config.instance_group[0].profile) == [str(i) for i in range(len(profiles))]
        assert len(config.model_warmup) == len({str(p.inputs) for p in profiles}) or step == "encoder"
        for warmup in config.model_warmup:
            batch = (warmup.batch_size,) * bool(config.max_batch_size)
            shapes = {name: batch + tuple(given.dims) for name, given in warmup.inputs.items()}
            assert any(profile.holds(shapes) for profile in profiles)
    encoder = configs[f"{contract.name}_encoder"]
    assert encoder.max_batch_size == max(profile.inputs["UNITS"].most[0] for profile in model.encoder)
    for spec in encoder.optimization.cuda.graph_spec:
        shapes = {name: (spec.batch_size, *shape.dim) for name, shape in spec.input.items()}
        assert all(profile.holds(shapes) for profile in model.encoder), "Triton captures a graph for every profile"


@given(contracts(), protocol_names, LIMITS, st.integers(1, 64))
def test_a_request_that_the_sample_step_lets_pass_fits_the_plans(
    contract: Contract, protocol: str, limits: Limits, largest_batch: int
) -> None:
    """Whatever its crops: three windows that are one come as one crop of three times as many clips."""
    assert_fits_the_plans(model_of(contract, limits=limits, largest_batch=largest_batch), protocol)


def test_many_views_of_few_frames_fit_the_plans_too(make_vtn_contract: Any) -> None:
    """Clips that share their frames are few units; it is their number that a plan bounds."""
    contract = replace(make_vtn_contract(), protocols=("CxR", "full", "fullN"))
    for clips in range(1, 70):
        for name in (f"{clips}x1", f"{clips}x3", f"full{clips * 11}"):
            assert_fits_the_plans(model_of(contract), name)


def assert_fits_the_plans(model: GpuModel, protocol: str) -> None:
    contract = model.manifest.contract
    try:
        asked = Request.from_parameters({"protocol": protocol}, contract, model.sample_limits).protocol
    except (InvalidRequestError, LimitError):
        return
    frames = contract.sampler.num_frames
    if asked.is_full:
        assert contract.full_video is not None
        frames = asked.num_frames or contract.full_video.num_frames
    n, width = frames // contract.geometry.unit_frames, contract.geometry.feature_dim
    for clips, crops in ((asked.num_clips, asked.num_crops), (asked.num_views, 1)):
        for rows in {n, clips * crops * n}:
            if rows > model.sample_limits.max_units:
                continue  # refused when the video has been looked at
            assert any(p.holds({"UNITS": (rows, *contract.unit_shape)}) for p in model.encoder)
            shapes = {
                "FEATURES": (rows, width),
                "CLIP_UNITS": (clips, n),
                "CLIP_POSITIONS": (clips, n),
                "CROPS": (crops, 2),
            }
            for_temporal = [p.holds({name: shapes[name] for name in p.inputs}) for p in model.temporal]  # type: ignore[misc]
            assert not for_temporal or any(for_temporal), shapes


def of(config: pb.ModelConfig) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


@pytest.mark.parametrize("engine", SERVED_BY["gpu"])
@pytest.mark.parametrize(("mode", "instances", "processes"), [("latency", 1, 2), ("throughput", 2, 4)])
def test_the_encoder_and_what_feeds_it(
    make_contract: Any, engine: EngineName, mode: Mode, instances: int, processes: int
) -> None:
    contract = replace(make_contract(clip_frames=8), default_protocol="4x3")
    configs = gpu_configs(model_of(contract, engine, mode))
    encoder = configs["small_encoder"]
    assert encoder.instance_group[0].count == instances
    assert configs["small_sample"].instance_group[0].count == processes
    assert encoder.max_batch_size == 120
    assert list(encoder.dynamic_batching.preferred_batch_size) == [48]
    assert [warmup.batch_size for warmup in encoder.model_warmup] == [4, 48]
    policy = encoder.dynamic_batching.default_queue_policy
    assert policy.timeout_action == pb.ModelQueuePolicy.REJECT
    assert policy.allow_timeout_override
    assert policy.max_queue_size == 128 + 2 * processes
    for step in ("small_sample", "small_encoder"):
        batching = configs[step].dynamic_batching
        assert (batching.priority_levels, batching.default_priority_level) == (2, 1)
    assert of(configs["small_sample"])["decoder"] == "nvdec"
    assert of(configs["small_sample"])["target"] == of(configs["small_report"])["target"] == "gpu"


def test_how_each_engine_is_told(make_contract: Any) -> None:
    contract = replace(make_contract(clip_frames=8), default_protocol="4x3")
    plan = gpu_configs(model_of(contract))["small_encoder"]
    assert of(plan)["execution_context_allocation_strategy"] == "ON_PROFILE_CHANGE"
    assert [spec.batch_size for spec in plan.optimization.cuda.graph_spec] == [4]
    assert not plan.optimization.HasField("execution_accelerators")
    cuda = gpu_configs(model_of(contract, "onnxruntime_cuda"))["small_encoder"]
    assert (cuda.backend, cuda.default_model_filename) == ("onnxruntime", "encoder.fp16.onnx")
    assert [a.name for a in cuda.optimization.execution_accelerators.gpu_execution_accelerator] == ["cuda"]
    assert of(cuda)["cudnn_conv_algo_search"] == "1"
    assert not cuda.instance_group[0].profile
    provider = gpu_configs(model_of(contract, "onnxruntime_tensorrt"))["small_encoder"]
    (accelerator,) = provider.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    chosen = dict(accelerator.parameters)
    assert chosen["trt_profile_min_shapes"] == "UNITS:1x2x48x48x3"
    assert chosen["trt_profile_opt_shapes"] == "UNITS:48x2x48x48x3"
    assert chosen["trt_profile_max_shapes"] == "UNITS:120x2x48x48x3"
    assert "precision_mode" not in chosen, "the graph has the types; TensorRT 11 takes no other word"
    assert chosen["trt_engine_cache_prefix"] == "small_encoder_fp16_0123456789abcdef"
    # What the backend does not know it refuses, with the whole model.
    assert set(chosen) <= KNOWN_TO_TRITON


KNOWN_TO_TRITON = {
    "max_workspace_size_bytes",
    "trt_builder_optimization_level",
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_engine_cache_prefix",
    "trt_profile_max_shapes",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_timing_cache_enable",
    "trt_timing_cache_path",
}
"""Of onnxruntime_backend, ``src/onnxruntime.cc``, as far as we use it."""


def test_retrained_weights_get_an_engine_of_their_own(make_contract: Any) -> None:
    """ONNX Runtime's own name for an engine is made of names in the graph: it would serve the old weights for ever."""
    model = model_of(make_contract(), "onnxruntime_tensorrt")
    prefixes = {prefix_of(each) for each in (model, replace(model, encoder_sha256="f" * 64))}
    assert len(prefixes) == 2
    assert prefix_of(model) == prefix_of(replace(model))


def prefix_of(model: GpuModel) -> str:
    encoder = gpu_configs(model)[f"{model.manifest.contract.name}_encoder"]
    (accelerator,) = encoder.optimization.execution_accelerators.gpu_execution_accelerator
    return accelerator.parameters["trt_engine_cache_prefix"]


@pytest.mark.parametrize("queue_size", [1, 2, 3, 64])
def test_a_short_queue_leaves_room_for_tritons_own_threads(queue_size: int) -> None:
    """Eight threads hand on, eight calls wait for them: with no more room than that they can wait for each other."""
    assert most_waiting(Limits(queue_size=queue_size), "latency") >= max(16, 2 * queue_size + 4)


def test_one_view_by_default_is_no_preferred_batch(make_contract: Any) -> None:
    encoder = gpu_configs(model_of(make_contract()))["small_encoder"]
    assert not encoder.dynamic_batching.preferred_batch_size, "views that wait together would be run one by one"
    assert len(encoder.model_warmup) == 1


def test_chunks_are_of_the_size_that_kernels_were_chosen_for(make_vtn_contract: Any) -> None:
    configs = gpu_configs(model_of(make_vtn_contract()))
    chunks, sample = of(configs["small_vtn_chunks"]), of(configs["small_vtn_sample"])
    assert chunks["largest_batch"] == "250"
    assert '"max_units":480' in sample["limits"]
    assert '"max_units":480' in of(configs["small_vtn"])["limits"]
    assert '"max_views":30' in chunks["limits"]
    unlimited = gpu_configs(model_of(make_vtn_contract(), "onnxruntime_cuda"))
    assert '"max_units":4096' in of(unlimited["small_vtn_chunks"])["limits"]
    assert of(unlimited["small_vtn_chunks"])["temporal_profiles"] == "[]"


def test_pools_hold_what_is_under_way(make_contract: Any, make_vtn_contract: Any) -> None:
    unit, width = 2 * 224 * 224 * 3, 8
    large = make_contract(clip_frames=32, short_side=256, crop=224)
    model = model_of(large)
    batch = 480 * (unit + 4 * width)
    assert 5 * batch <= device_pool_bytes(model) < 5 * batch + 2**20
    twice = model_of(large, mode="throughput")
    assert 10 * batch <= device_pool_bytes(twice) < 10 * batch + 2**20
    assert pinned_pool_bytes(model) == 256 * 2**20, "32 frames of 256 lines, four times, fit into Triton's own"
    vtn = make_vtn_contract()
    tall = replace(vtn, resize=replace(vtn.resize, short_side_px=256))
    frames = 250 * 256 * 456 * 3
    assert 4 * frames <= pinned_pool_bytes(model_of(tall)) < 4 * frames + 2**20


def joint() -> tuple[torch.nn.Module, dict[str, Any]]:
    geometry = Geometry(unit_frames=6, feature_dim=None, positions=False, attention=False, any_length=False)
    heads = tuple(
        Head(name=name, num_classes=size, activation="softmax", labels_sha256="0" * 64)
        for name, size in (("noun", 2), ("verb", 3))
    )
    return small_vivit("model 1"), {"geometry": geometry, "heads": heads, "product": "action"}


def of_any_length() -> tuple[torch.nn.Module, dict[str, Any]]:
    geometry = Geometry(unit_frames=1, feature_dim=24, positions=False, attention=False, any_length=True)
    return small_vtn("resnet, no positions"), {"geometry": geometry, "heads": (FIVE,)}


FIVE = Head(name="label", num_classes=5, activation="sigmoid", labels_sha256="0" * 64)


@pytest.mark.parametrize("make", [joint, of_any_length])
def test_configurations_are_those_of_the_graphs(make: Any, make_contract: Any, tmp_path: Path) -> None:
    """What the demo models do not have: a product of two heads, clips of any length without positions."""
    network, changes = make()
    small = make_contract(clip_frames=6, short_side=24, crop=24)
    contract = replace(small, **changes)
    list(export_graphs(network, contract, out=tmp_path))
    configs = gpu_configs(model_of(contract, "onnxruntime_cuda"))
    for step in step_tensors(contract, "gpu"):
        config = configs[f"small_{step}"]
        if config.backend == "python":
            continue
        graph = onnx.load(tmp_path / f"{step}.onnx").graph
        for tensors, values in ((config.input, graph.input), (config.output, graph.output)):
            found = {
                value.name: [
                    size.dim_value if size.HasField("dim_value") else -1 for size in value.type.tensor_type.shape.dim
                ]
                for value in values
            }
            batch = [-1] * bool(config.max_batch_size)
            assert {tensor.name: batch + list(tensor.dims) for tensor in tensors} == found, step
