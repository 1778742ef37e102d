"""Triton's configuration of every model on target ``gpu``; docs/adr/0020-gpu-repository.md has the reasons in full.

Who reads a configuration needs no more than this: the steps at both ends are Python backends on the host, all between
them runs on one card, and what passes between two of those stays there.
"""

from __future__ import annotations

from collections.abc import Sequence

from tritonclient.grpc import model_config_pb2 as pb

from tubelet.export.configs import (
    PB_TYPES,
    SAMPLE_PROCESSES,
    add_parameters,
    bound_queue,
    chain_config,
    ensemble_configs,
    python_config,
    rank_requests,
    tensor_input,
    tensor_output,
    warm_with_video,
)
from tubelet.export.gpu_model import INSTANCES, GpuModel
from tubelet.spec.engine import Mode, Running, graph_file
from tubelet.spec.ensemble import EnsembleContract
from tubelet.spec.limits import Limits
from tubelet.spec.plan import BuildOptions, PlanStep, Profile
from tubelet.spec.priorities import PRIORITIES
from tubelet.spec.repository import ENGINE_FOLDER
from tubelet.spec.strict import canonical_json
from tubelet.spec.tensors import GRAPH_STEPS, Step, TensorSpec, WayIn, step_tensors, ways_in

__all__ = [
    "ENGINE_FOLDER",
    "INSTANCES",
    "GpuModel",
    "gpu_configs",
    "gpu_ensemble_configs",
    "model_file",
    "most_waiting",
]

_CALLBACKS = 8
"""Threads in which Triton hands tensors on from step to step, and calls that wait for one. With no more room in a step,
all of them could wait for room that only a call behind them in the line would give back."""

_CARD = (0,)
"""The card that serves. A server for each card, not one for all: ensemble tensors would go from card to card."""

_HEURISTIC_SEARCH = "1"
"""How cuDNN's kernels are chosen. Triton's default tries all of them at every new batch size."""


def gpu_configs(model: GpuModel) -> dict[str, pb.ModelConfig]:
    """The configurations of a model's ensembles and steps, by the name of their folder."""
    contract = model.manifest.contract
    configs = {f"{contract.name}_{step}": _step_config(step, model) for step in step_tensors(contract, "gpu")}
    for way, (name, _) in ways_in(contract).items():
        configs[name] = chain_config(way, contract, _limits_of(way, model), "gpu")
        _bound_steps(configs[name], model.limits, model.running.mode)
    return configs


def gpu_ensemble_configs(contract: EnsembleContract, limits: Limits, running: Running) -> list[pb.ModelConfig]:
    """The configurations of models that answer together, as `tubelet.export.configs.ensemble_configs`."""
    public, combine = ensemble_configs(contract, limits, "gpu")
    _bound_steps(public, limits, running.mode)
    return [public, combine]


def model_file(step: PlanStep | Step, running: Running) -> str:
    """The name under which a step's graph or plan lies in its version's folder.

    Graphs keep the bundle's: their weights, where they lie beside them, are found by it.
    """
    if step in ("encoder", "temporal") and running.engine == "tensorrt":
        return "model.plan"
    return graph_file(step, running.precision, "gpu").rpartition("/")[2]


def most_waiting(limits: Limits, mode: Mode) -> int:
    """Requests that one step has at a time, waiting and running: what the queue of the first step lets in."""
    return max(len(PRIORITIES) * limits.queue_size + 2 * SAMPLE_PROCESSES[mode], 2 * _CALLBACKS)


def _limits_of(way: WayIn, model: GpuModel) -> Limits:
    return model.sample_limits if way in ("video", "frames") else model.chunk_limits


def _bound_steps(config: pb.ModelConfig, limits: Limits, mode: Mode) -> None:
    """Has decoded videos wait where they are still videos, when the card does not keep up.

    Triton makes whoever hands on wait, and the first step is handed its requests by the front end: so no less than
    fits into that step's queue, which refuses instead.
    """
    config.ensemble_scheduling.max_inflight_requests = most_waiting(limits, mode)


def _step_config(step: Step, model: GpuModel) -> pb.ModelConfig:
    if step in GRAPH_STEPS:
        return _encoder_config(model) if step == "encoder" else _graph_config(step, model)
    contract = model.manifest.contract
    count = SAMPLE_PROCESSES[model.running.mode] if step == "sample" else 1
    config = python_config(f"{contract.name}_{step}", step_tensors(contract, "gpu")[step], count=count)
    add_parameters(config, contract, model.sample_limits if step == "sample" else model.chunk_limits)
    config.parameters["target"].string_value = "gpu"
    if step in ("sample", "chunks"):
        config.parameters["decoder"].string_value = model.decoder
        bound_queue(config, model.limits)
        rank_requests(config)
    if step == "sample":
        warm_with_video(config)
    if step == "chunks":
        config.parameters["largest_batch"].string_value = str(model.batches[-1])
        config.parameters["temporal_profiles"].string_value = canonical_json(model.temporal)
    return config


def _encoder_config(model: GpuModel) -> pb.ModelConfig:
    config = _on_card("encoder", model, count=INSTANCES[model.running.mode])
    config.max_batch_size = model.largest_batch
    bound_queue(config, model.limits)
    rank_requests(config)
    config.dynamic_batching.default_queue_policy.max_queue_size = most_waiting(model.limits, model.running.mode)
    # A batch of the size that kernels were chosen for goes as it is. The size of one view is not preferred: of views
    # that wait together, each would be run by itself.
    config.dynamic_batching.preferred_batch_size.extend(model.batches[1:][-1:])
    (units,) = step_tensors(model.manifest.contract, "gpu")["encoder"][0]
    for batch in model.batches:
        _warm(config, f"{batch}_units", {units.name: (units, units.shape)}, batch_size=batch)
    if model.running.engine == "tensorrt":
        _use_profiles(config, model.encoder)
        _capture(config, units, _common_batches(model))
    else:
        _accelerate(config, model)
    return config


def _graph_config(step: Step, model: GpuModel) -> pb.ModelConfig:
    """Steps of few milliseconds and small tensors: one instance, no batches, the queue that Triton has by itself."""
    config = _on_card(step, model, count=1)
    if step == "temporal" and model.running.engine == "tensorrt":
        _use_profiles(config, model.temporal)
    inputs = step_tensors(model.manifest.contract, "gpu")[step][0]
    for name, shapes in _warm_shapes(step, model).items():
        _warm(config, name, {spec.name: (spec, shapes[spec.name]) for spec in inputs})
    return config


def _on_card(step: Step, model: GpuModel, *, count: int) -> pb.ModelConfig:
    contract = model.manifest.contract
    inputs, outputs = step_tensors(contract, "gpu")[step]
    file = model_file(step, model.running)
    config = pb.ModelConfig(
        name=f"{contract.name}_{step}",
        input=[tensor_input(spec) for spec in inputs],
        output=[tensor_output(spec) for spec in outputs],
        instance_group=[pb.ModelInstanceGroup(kind=pb.ModelInstanceGroup.KIND_GPU, count=count, gpus=_CARD)],
        default_model_filename=file,
    )
    if file.endswith(".plan"):
        config.platform = "tensorrt_plan"
    else:
        config.backend = "onnxruntime"
    config.parameters["contract_digest"].string_value = contract.digest
    return config


def _use_profiles(config: pb.ModelConfig, profiles: Sequence[Profile]) -> None:
    """Every instance gets a context for each profile, with the memory that this profile needs; the default is one."""
    config.instance_group[0].profile.extend(str(i) for i in range(len(profiles)))
    config.parameters["execution_context_allocation_strategy"].string_value = "ON_PROFILE_CHANGE"


def _capture(config: pb.ModelConfig, units: TensorSpec, batches: Sequence[int]) -> None:
    """Replays the launches of batches of exactly this size; surplus rows of larger graphs would be computed in vain."""
    config.optimization.cuda.graphs = True
    for batch in batches:
        spec = config.optimization.cuda.graph_spec.add(batch_size=batch)
        spec.input[units.name].dim.extend(units.shape)


def _common_batches(model: GpuModel) -> list[int]:
    """Sizes worth a graph: those that every profile takes, since Triton captures each for all of them.

    These are the small ones, where the time to launch kernels counts.
    """
    taken = [profile.inputs["UNITS"] for profile in model.encoder]
    return [batch for batch in model.batches if all(s.least[0] <= batch <= s.most[0] for s in taken)]


def _accelerate(config: pb.ModelConfig, model: GpuModel) -> None:
    if model.running.engine == "onnxruntime_cuda":
        config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda")
        # Where a configuration has parameters, Triton reads this one from them, and not from the accelerator's.
        config.parameters["cudnn_conv_algo_search"].string_value = _HEURISTIC_SEARCH
        return
    tensorrt = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    options = BuildOptions()
    unit = "x".join(map(str, model.manifest.contract.unit_shape))
    least = min(profile.inputs["UNITS"].least[0] for profile in model.encoder)
    chosen = {
        # One profile over all shapes: ONNX Runtime does not say how it chooses between several.
        "trt_profile_min_shapes": f"UNITS:{least}x{unit}",
        "trt_profile_opt_shapes": f"UNITS:{model.batches[-1]}x{unit}",
        "trt_profile_max_shapes": f"UNITS:{model.largest_batch}x{unit}",
        "max_workspace_size_bytes": str(options.workspace_gib * 2**30),
        "trt_builder_optimization_level": str(options.builder_level),
        "trt_engine_cache_enable": "true",
        "trt_engine_cache_path": ENGINE_FOLDER,
        # ONNX Runtime finds an engine by the names in the graph, so it would take that of other weights.
        "trt_engine_cache_prefix": f"{config.name}_{model.running.precision}_{model.encoder_sha256[:16]}",
        "trt_timing_cache_enable": "true",
        "trt_timing_cache_path": ENGINE_FOLDER,
    }
    for name, value in chosen.items():
        tensorrt.parameters[name] = value


def _warm_shapes(step: Step, model: GpuModel) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the inputs of each first run: those that the plan's kernels were chosen for, or one view's."""
    if step == "temporal" and model.temporal:
        return {
            f"profile_{i}": {name: shapes.opt for name, shapes in profile.inputs.items()}
            for i, profile in enumerate(model.temporal)
        }
    contract = model.manifest.contract
    side, n = contract.resize.short_side_px, contract.units_per_clip
    inputs = step_tensors(contract, "gpu")[step][0]
    one = {spec.name: tuple(1 if size == -1 else size for size in spec.shape) for spec in inputs}
    one |= {"FRAMES": (contract.geometry.unit_frames, side, side, 3), "CLIP_UNITS": (1, n), "CLIP_POSITIONS": (1, n)}
    if step == "temporal":
        one["FEATURES"] = (n, one["FEATURES"][1])
    return {"one_view": one}


def _warm(
    config: pb.ModelConfig,
    name: str,
    inputs: dict[str, tuple[TensorSpec, tuple[int, ...]]],
    *,
    batch_size: int = 1,
) -> None:
    warmup = config.model_warmup.add(name=name, batch_size=batch_size)
    for input_name, (spec, shape) in inputs.items():
        given = pb.ModelWarmup.Input(data_type=PB_TYPES[spec.dtype], dims=shape, zero_data=True)
        warmup.inputs[input_name].CopyFrom(given)
