"""Writes Triton model repositories from bundles; every configuration goes through Triton's own protobuf."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tubelet.preprocess.canary import canary_video
from tubelet.spec.errors import ContractError, InvalidRequestError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract, Manifest
from tubelet.spec.repository import RepositoryIndex, ServedModel
from tubelet.spec.strict import canonical_json
from tubelet.spec.tensors import Step, TensorSpec, step_tensors

__all__ = ["Target", "write_repository"]

Target = Literal["cpu"]

STEPS: tuple[Step, ...] = ("sample", "units", "encoder", "temporal", "average")
"""The chain behind the public name, in the order of the data."""

_GRAPHS: dict[Step, str] = {"encoder": "encoder.onnx", "temporal": "temporal.onnx"}
_INSTANCES: dict[Step, int] = {"sample": 2}
"""Processes of a step, where one is not enough: one video is decoded while another is demuxed."""

_PB_TYPES = {
    "BYTES": pb.TYPE_STRING,
    "UINT8": pb.TYPE_UINT8,
    "INT32": pb.TYPE_INT32,
    "FP32": pb.TYPE_FP32,
    "FP64": pb.TYPE_FP64,
}


def write_repository(bundles: Sequence[Path], *, target: Target, out: Path, limits: Limits) -> None:
    """Writes one model repository that serves all ``bundles``.

    What ``out`` holds of these models is replaced; other models in it are left as they are, but are served no more.

    Args:
        bundles: folders written by `tubelet export`.
        target: ``cpu``; decides the backend of every step.
        out: the repository's folder.
        limits: hold for every model of the repository.

    Raises:
        ContractError: a bundle is damaged, or two bundles have one name.
        InvalidRequestError: the target does not exist.
    """
    if target != "cpu":
        raise InvalidRequestError("bad_parameter", f"target must be 'cpu', got {target!r}")
    contracts = [(bundle, Manifest.load(bundle).contract) for bundle in bundles]
    names = [contract.name for _, contract in contracts]
    if len(set(names)) < len(names):
        raise ContractError("contract_mismatch", f"a name can be served once, got {', '.join(names)}")
    out.mkdir(parents=True, exist_ok=True)
    for bundle, contract in contracts:
        _write_model(bundle, contract, out, limits)
    models = tuple(
        ServedModel(
            name=contract.name,
            contract_digest=contract.digest,
            shm_bytes=_shm_bytes(contract),
            # A decoder gives no sign while it works, and may work this long; the rest is for the machine's other work.
            max_silence_s=limits.decode_timeout_s + 10,
        )
        for _, contract in contracts
    )
    # Written last: `tubelet serve` refuses a repository without it.
    RepositoryIndex(schema_version=1, target=target, models=models).save(out)


def model_configs(contract: Contract, limits: Limits) -> dict[str, pb.ModelConfig]:
    """The configurations of a model's ensembles and steps, by the name of their folder."""
    configs = {f"{contract.name}_{step}": _step_config(step, contract, limits) for step in STEPS}
    configs[contract.name] = _ensemble_config("ensemble", contract, limits)
    configs[f"{contract.name}_frames"] = _ensemble_config("frames_ensemble", contract, limits)
    return configs


def _write_model(bundle: Path, contract: Contract, out: Path, limits: Limits) -> None:
    labels = _all_labels(bundle, contract)
    for folder_name, config in model_configs(contract, limits).items():
        folder = out / folder_name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "1").mkdir(parents=True)
        text = text_format.MessageToString(config, use_short_repeated_primitives=True)
        (folder / "config.pbtxt").write_text(text, encoding="utf-8")
        if config.platform == "ensemble":
            # An ensemble's version is an empty folder, which git and archives would drop.
            (folder / "1" / ".keep").touch()
            (folder / "labels.txt").write_text(labels, encoding="utf-8")
    for step in STEPS:
        version = out / f"{contract.name}_{step}" / "1"
        shim = f"from tubelet.server.steps.{step} import TritonPythonModel\n"
        (version / "model.py").write_text(shim, encoding="utf-8")
        if step in _GRAPHS:
            _place(bundle, _GRAPHS[step], version)
    (out / f"{contract.name}_average" / "1" / "labels.txt").write_text(labels, encoding="utf-8")
    _write_warmup(out / f"{contract.name}_sample")


def _all_labels(bundle: Path, contract: Contract) -> str:
    """One label a line for each entry of PROBABILITIES; with several heads, the head's name stands before it."""
    if len(contract.heads) == 1:
        return (bundle / "labels.txt").read_text(encoding="utf-8")
    files = {head.name: bundle / f"labels.{head.name}.txt" for head in contract.heads}
    return "".join(
        f"{name}: {label}\n" for name, file in files.items() for label in file.read_text(encoding="utf-8").splitlines()
    )


def _place(bundle: Path, graph: str, version: Path) -> None:
    """Puts a graph, and its weights file where it has one, into a version's folder; by a link where possible."""
    for source in sorted(bundle.glob(f"{graph}*")):
        try:
            os.link(source, version / source.name)
        except OSError:  # another file system, or one without links
            shutil.copy(source, version / source.name)


def _write_warmup(folder: Path) -> None:
    """Triton's form of a BYTES element in a file: four bytes of length, little-endian, then the bytes."""
    video = canary_video()
    (folder / "warmup").mkdir()
    (folder / "warmup" / "VIDEO").write_bytes(len(video).to_bytes(4, "little") + video)


def _step_config(step: Step, contract: Contract, limits: Limits) -> pb.ModelConfig:
    inputs, outputs = step_tensors(contract)[step]
    config = pb.ModelConfig(
        name=f"{contract.name}_{step}",
        backend="python",
        input=[_input(spec) for spec in inputs],
        output=[_output(spec) for spec in outputs],
        instance_group=[pb.ModelInstanceGroup(kind=pb.ModelInstanceGroup.KIND_CPU, count=_INSTANCES.get(step, 1))],
    )
    _add_parameters(config, contract, limits)
    if step == "sample":
        _bound_queue(config, limits)
        _warm(config, "VIDEO", pb.ModelWarmup.Input(data_type=pb.TYPE_STRING, dims=[1], input_data_file="VIDEO"))
    if step == "encoder":
        config.max_batch_size = limits.max_units
        config.dynamic_batching.SetInParent()
        for spec in inputs:
            data_type = _PB_TYPES[spec.dtype]
            _warm(config, spec.name, pb.ModelWarmup.Input(data_type=data_type, dims=spec.shape, zero_data=True))
        config.model_warmup[0].batch_size = contract.units_per_clip
    return config


def _bound_queue(config: pb.ModelConfig, limits: Limits) -> None:
    """Admission control sits here, where a request is still small: encoded bytes.

    ``dynamic_batching`` on a model that does not batch is a plain queue with these policies.
    """
    policy = config.dynamic_batching.default_queue_policy
    policy.timeout_action = pb.ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = int(limits.default_deadline_s * 1e6)
    policy.allow_timeout_override = True
    policy.max_queue_size = limits.queue_size


def _warm(config: pb.ModelConfig, name: str, tensor: pb.ModelWarmup.Input) -> None:
    if not config.model_warmup:
        config.model_warmup.add(name="first_request", batch_size=1)
    config.model_warmup[0].inputs[name].CopyFrom(tensor)


def _ensemble_config(kind: Step, contract: Contract, limits: Limits) -> pb.ModelConfig:
    """The chain of steps under a public name.

    Tensors between steps are lower case. Triton 2.51 drops an output of the ensemble that nobody asked for, even where
    a later step needs it, and then finds a deadlock: so no tensor is both, and `average` hands VIEW_LOGITS through.
    """
    tensors = step_tensors(contract)
    inputs, outputs = tensors[kind]
    suffix = "" if kind == "ensemble" else "_frames"
    config = pb.ModelConfig(
        name=contract.name + suffix,
        platform="ensemble",
        input=[_input(spec) for spec in inputs],
        output=[_output(spec, labels=spec.name == "PROBABILITIES") for spec in outputs],
    )
    for position, step in enumerate(STEPS):
        step_inputs, step_outputs = tensors[step]
        consumed = {spec.name for later in STEPS[position + 1 :] for spec in tensors[later][0]}
        public = {spec.name for spec in outputs} - consumed
        # The first step takes what the ensemble takes; later ones take what an earlier one gave.
        step_inputs = inputs if step == "sample" else step_inputs
        config.ensemble_scheduling.step.add(
            model_name=f"{contract.name}_{step}",
            model_version=-1,
            input_map={spec.name: spec.name if step == "sample" else spec.name.lower() for spec in step_inputs},
            output_map={spec.name: spec.name if spec.name in public else spec.name.lower() for spec in step_outputs},
        )
    _add_parameters(config, contract, limits)
    return config


def _add_parameters(config: pb.ModelConfig, contract: Contract, limits: Limits) -> None:
    config.parameters["contract"].string_value = canonical_json(contract)
    config.parameters["contract_digest"].string_value = contract.digest
    config.parameters["limits"].string_value = canonical_json(limits)


def _input(spec: TensorSpec) -> pb.ModelInput:
    data_type = _PB_TYPES[spec.dtype]
    return pb.ModelInput(name=spec.name, data_type=data_type, dims=spec.shape, optional=spec.optional)


def _output(spec: TensorSpec, *, labels: bool = False) -> pb.ModelOutput:
    data_type = _PB_TYPES[spec.dtype]
    label_filename = "labels.txt" if labels else ""
    return pb.ModelOutput(name=spec.name, data_type=data_type, dims=spec.shape, label_filename=label_filename)


def _shm_bytes(contract: Contract) -> int:
    """Shared memory that one process of a step starts with: the units of a default request, and room beside them.

    Growing a region costs more than a second for large tensors, so it should not happen with every first request.
    """
    t, side, _, channels = contract.unit_shape
    units = contract.units_per_clip * t * side * side * channels
    return max(4 * 1024 * 1024, 4 * units)
