"""Triton's configuration of every served model, as its own protobuf: nobody types it, nobody formats it as text."""

from __future__ import annotations

from collections.abc import Mapping

from tritonclient.grpc import model_config_pb2 as pb

from tubelet.spec.engine import Mode, Running, Target
from tubelet.spec.ensemble import EnsembleContract
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract, Manifest
from tubelet.spec.priorities import DEFAULT_PRIORITY, PRIORITIES, QUEUE_SHARE
from tubelet.spec.strict import canonical_json
from tubelet.spec.tensors import CHAINS, Signature, Step, TensorSpec, WayIn, combine_tensors, step_tensors, ways_in

__all__ = [
    "GRAPHS",
    "PB_TYPES",
    "PRODUCT_LABELS",
    "SAMPLE_PROCESSES",
    "add_parameters",
    "bound_queue",
    "chain_config",
    "ensemble_configs",
    "model_configs",
    "python_config",
    "rank_requests",
    "tensor_input",
    "tensor_output",
    "warm_with_video",
]

PRODUCT_LABELS = "labels.product.txt"

GRAPHS: tuple[Step, ...] = ("encoder", "temporal")
"""The steps that run a graph on target ``cpu``."""

SAMPLE_PROCESSES: dict[Mode, int] = {"latency": 2, "throughput": 4}
"""One video is decoded while another is demuxed; where many callers wait, more of both."""

PB_TYPES = {
    "BYTES": pb.TYPE_STRING,
    "UINT8": pb.TYPE_UINT8,
    "INT32": pb.TYPE_INT32,
    "FP32": pb.TYPE_FP32,
    "FP64": pb.TYPE_FP64,
}

_LABELS = {"PROBABILITIES": "labels.txt", "PRODUCT": PRODUCT_LABELS}


def model_configs(manifest: Manifest, limits: Limits, running: Running) -> dict[str, pb.ModelConfig]:
    """The configurations of a model's ensembles and steps on target ``cpu``, by the name of their folder."""
    contract = manifest.contract
    steps = {
        f"{contract.name}_{step}": _step_config(step, manifest, limits, running) for step in step_tensors(contract)
    }
    return steps | {name: chain_config(way, contract, limits, "cpu") for way, (name, _) in ways_in(contract).items()}


def ensemble_configs(contract: EnsembleContract, limits: Limits, target: Target = "cpu") -> list[pb.ModelConfig]:
    """The configurations of models that answer together: the public name, and the step that makes one answer of theirs.

    The members' own steps do the work, so their batches hold units of both ways in. One member answers after the
    other: in Triton 2.51, steps of one request that fail at the same time end the server, or leave its gRPC side
    standing still for ever (docs/adr/0013-models-that-answer-together.md).
    """
    combine_inputs, outputs = combine_tensors(contract)
    combine = python_config(f"{contract.name}_combine", (combine_inputs, outputs))
    wanted = [spec.name for spec in combine_inputs]
    public = pb.ModelConfig(
        name=contract.name,
        platform="ensemble",
        input=[tensor_input(spec) for spec in ways_in(contract.members[0])["video"][1][0]],
        output=[tensor_output(spec, labels=True) for spec in outputs],
    )
    given = {"VIDEO": "VIDEO"}
    for i, member in enumerate(contract.members):
        answer = {spec.name: f"{spec.name}_{i}".lower() for spec in outputs if f"{spec.name}_{i}" in wanted}
        after = {} if member is contract.members[-1] else {"AFTER": f"after_{i}"}
        tensors = step_tensors(member, target)
        _add_chain(public, "video", member.name, tensors, given=given, answer=answer | after, prefix=f"{i}_")
        given = {"VIDEO": "VIDEO", **after}
    public.ensemble_scheduling.step.add(
        model_name=combine.name,
        model_version=-1,
        input_map={name: name.lower() for name in wanted},
        output_map={spec.name: spec.name for spec in outputs},
    )
    for config in (public, combine):
        add_parameters(config, contract, limits)
    return [public, combine]


def _step_config(step: Step, manifest: Manifest, limits: Limits, running: Running) -> pb.ModelConfig:
    contract, largest_batch = manifest.contract, manifest.build.largest_batch
    count = SAMPLE_PROCESSES[running.mode] if step == "sample" else 1
    config = python_config(f"{contract.name}_{step}", step_tensors(contract)[step], count=count)
    add_parameters(config, contract, limits)
    if step in GRAPHS:
        config.parameters["running"].string_value = canonical_json(running)
    if step in ("encoder", "chunks"):
        config.parameters["largest_batch"].string_value = str(largest_batch)
    if step in ("sample", "chunks"):
        bound_queue(config, limits)
        rank_requests(config)
    if step == "sample":
        warm_with_video(config)
    if step == "encoder":
        config.max_batch_size = limits.max_units
        rank_requests(config)
        warmup = config.model_warmup.add(name="first_request")
        warmup.batch_size = min(contract.units_per_clip, largest_batch)
        for spec in step_tensors(contract)[step][0]:
            given = pb.ModelWarmup.Input(data_type=PB_TYPES[spec.dtype], dims=spec.shape, zero_data=True)
            warmup.inputs[spec.name].CopyFrom(given)
    return config


def python_config(name: str, tensors: Signature, *, count: int = 1) -> pb.ModelConfig:
    """A step that is a Python backend: ``count`` processes, on the host."""
    inputs, outputs = tensors
    return pb.ModelConfig(
        name=name,
        backend="python",
        input=[tensor_input(spec) for spec in inputs],
        output=[tensor_output(spec) for spec in outputs],
        instance_group=[pb.ModelInstanceGroup(kind=pb.ModelInstanceGroup.KIND_CPU, count=count)],
    )


def bound_queue(config: pb.ModelConfig, limits: Limits) -> None:
    """Admission control sits here, where a request is still small: encoded bytes.

    ``dynamic_batching`` on a model that does not batch is a plain queue with these policies.
    """
    policy = config.dynamic_batching.default_queue_policy
    policy.timeout_action = pb.ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = int(QUEUE_SHARE * limits.default_deadline_s * 1e6)
    policy.allow_timeout_override = True
    policy.max_queue_size = limits.queue_size


def rank_requests(config: pb.ModelConfig) -> None:
    """Each priority has a queue of its own, of the size that the policy says; the next is served when it is empty.

    Triton hands the priority of a request to the steps of an ensemble; requests that a step sends have the default's.
    """
    config.dynamic_batching.priority_levels = len(PRIORITIES)
    config.dynamic_batching.default_priority_level = PRIORITIES[DEFAULT_PRIORITY]


def warm_with_video(config: pb.ModelConfig) -> None:
    """Has the first video gone through before there are requests; `tubelet repository` puts it into a file."""
    warmup = config.model_warmup.add(name="first_request", batch_size=1)
    warmup.inputs["VIDEO"].CopyFrom(pb.ModelWarmup.Input(data_type=pb.TYPE_STRING, dims=[1], input_data_file="VIDEO"))


def chain_config(way: WayIn, contract: Contract, limits: Limits, target: Target) -> pb.ModelConfig:
    """The chain of steps under a public name."""
    name, (inputs, outputs) = ways_in(contract)[way]
    config = pb.ModelConfig(
        name=name,
        platform="ensemble",
        input=[tensor_input(spec) for spec in inputs],
        output=[tensor_output(spec, labels=True) for spec in outputs],
    )
    given, answer = ({spec.name: spec.name for spec in specs} for specs in (inputs, outputs))
    _add_chain(config, way, contract.name, step_tensors(contract, target), given=given, answer=answer)
    add_parameters(config, contract, limits)
    return config


def _add_chain(
    config: pb.ModelConfig,
    way: WayIn,
    model: str,
    tensors: Mapping[Step, Signature],
    *,
    given: Mapping[str, str],
    answer: Mapping[str, str],
    prefix: str = "",
) -> None:
    """Adds the steps behind one way into a model to an ensemble.

    ``given`` says which tensors the first step takes, ``answer`` what becomes of those that the steps end with.

    Tensors between steps are called after the step that makes them, in lower case. Triton 2.51 drops an output of the
    ensemble that nobody asked for, even where a later step needs it, and then finds a deadlock: so no tensor is both,
    and the last step hands VIEW_LOGITS through. Nor may there be a tensor that nobody takes.
    """
    chain = [step for step in CHAINS[way] if step in tensors]
    last = {spec.name: step for step in chain for spec in tensors[step][1]}
    made: dict[str, str] = {}
    for position, step in enumerate(chain):
        inputs = {spec.name: made[spec.source or spec.name] for spec in tensors[step][0]} if position else dict(given)
        taken = {spec.source or spec.name for later in chain[position + 1 :] for spec in tensors[later][0]}
        outputs = {
            name: f"{prefix}{step}_{name.lower()}" for name in (spec.name for spec in tensors[step][1]) if name in taken
        }
        outputs |= {name: inner for name, inner in answer.items() if last[name] == step}
        config.ensemble_scheduling.step.add(
            model_name=f"{model}_{step}",
            model_version=-1,
            input_map=inputs,
            output_map=outputs,
        )
        made |= outputs


def add_parameters(config: pb.ModelConfig, contract: Contract | EnsembleContract, limits: Limits) -> None:
    """Whose the configuration is, and what a request may cost: read by our steps and by clients."""
    config.parameters["contract"].string_value = canonical_json(contract)
    config.parameters["contract_digest"].string_value = contract.digest
    config.parameters["limits"].string_value = canonical_json(limits)


def tensor_input(spec: TensorSpec) -> pb.ModelInput:
    """One entry of a configuration's ``input``."""
    data_type = PB_TYPES[spec.dtype]
    return pb.ModelInput(name=spec.name, data_type=data_type, dims=spec.shape, optional=spec.optional)


def tensor_output(spec: TensorSpec, *, labels: bool = False) -> pb.ModelOutput:
    """One entry of a configuration's ``output``; with ``labels``, one whose classes have names says so."""
    data_type = PB_TYPES[spec.dtype]
    label_filename = _LABELS.get(spec.name, "") if labels else ""
    return pb.ModelOutput(name=spec.name, data_type=data_type, dims=spec.shape, label_filename=label_filename)
