"""Writes Triton model repositories from bundles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from tritonclient.grpc import model_config_pb2 as pb

from tubelet.export.configs import GRAPHS, ensemble_configs, model_configs
from tubelet.export.configs_gpu import gpu_configs, gpu_ensemble_configs, model_file
from tubelet.export.digests import graphs_sha256
from tubelet.export.gpu_model import (
    device_pool_bytes,
    files_for_card,
    find_gpu_model,
    needs_of_plans,
    pinned_pool_bytes,
)
from tubelet.export.repository_files import all_labels, write_ensemble, write_model
from tubelet.spec.engine import DEFAULT_RUNNING, SERVED_BY, Running, Target, graph_file
from tubelet.spec.ensemble import EnsembleContract, cheapest_protocol
from tubelet.spec.errors import ContractError, InvalidRequestError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract, Manifest
from tubelet.spec.protocol import Protocol
from tubelet.spec.repository import Decoder, RepositoryIndex, ServedModel
from tubelet.spec.tensors import Step, step_tensors, ways_in

__all__ = ["write_repository"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One bundle of a repository, ready to be written."""

    bundle: Path
    contract: Contract
    configs: Mapping[str, pb.ModelConfig]
    files: Mapping[Step, tuple[str, str]]
    served: ServedModel


def write_repository(
    bundles: Sequence[Path],
    *,
    target: Target,
    out: Path,
    limits: Limits,
    running: Running = DEFAULT_RUNNING,
    decoder: Decoder = "pyav",
    ensembles: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> RepositoryIndex:
    """Writes one model repository that serves all ``bundles``.

    What ``out`` holds of these models is replaced; other models in it are left as they are, but are served no more.

    Args:
        bundles: folders written by `tubelet export`.
        target: decides the backend of every step.
        out: the repository's folder.
        limits: hold for every model of the repository; a model's plans may hold it to fewer views and units.
        running: how every model's encoder runs.
        decoder: who decodes videos; on target ``cpu`` the processor.
        ensembles: public names under which several of the models answer together, each with the models' names.

    Returns:
        What was written into the repository's index; it says which models are not verified for ``running``.

    Raises:
        ContractError: a bundle is damaged, two models have one name, models cannot answer together, or a plan was not
            built from what the bundle holds.
        InvalidRequestError: the engine or the decoder is not one of the target, an ensemble names a model that is not
            among the bundles, or a bundle has no graph or no plan for the precision.
    """
    _check_target(target, running, decoder)
    parts = [_part(bundle, Manifest.load(bundle), limits, running, decoder) for bundle in bundles]
    members = {part.contract.name: part for part in parts}
    together = [_ensemble(name, names, members) for name, names in ensembles.items()]
    joint = {contract.name: _ensemble_configs(contract, limits, running) for contract in together}
    folders = [name for part in parts for name in part.configs] + [name for found in joint.values() for name in found]
    if twice := sorted({name for name in folders if folders.count(name) > 1}):
        raise ContractError("contract_mismatch", f"a name can be served once, got twice {', '.join(twice)}; rename one")
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        write_model(out, part.bundle, part.contract, configs=part.configs, files=part.files)
    served = [part.served for part in parts]
    for contract in together:
        first = members[contract.members[0].name]
        write_ensemble(out, all_labels(first.bundle, first.contract), joint[contract.name])
        served.append(_served_together(contract, [members[member.name].served for member in contract.members]))
    # Written last: `tubelet serve` refuses a repository without it.
    index = RepositoryIndex(schema_version=1, target=target, models=tuple(served))
    index.save(out)
    return index


def _check_target(target: Target, running: Running, decoder: Decoder) -> None:
    if running.engine not in SERVED_BY[target]:
        raise InvalidRequestError(
            "bad_parameter",
            f"target {target} is served by {', '.join(SERVED_BY[target])}, not by {running.engine}",
        )
    if target == "cpu" and decoder != "pyav":
        raise InvalidRequestError("bad_parameter", f"on target cpu the decoder is pyav, not {decoder}")


def _part(bundle: Path, manifest: Manifest, limits: Limits, running: Running, decoder: Decoder) -> _Part:
    contract = manifest.contract
    if running.target == "gpu":
        model = find_gpu_model(bundle, manifest, limits=limits, running=running, decoder=decoder)
        files = {step: (file, model_file(step, running)) for step, file in files_for_card(manifest, running).items()}
        needs = needs_of_plans(bundle, manifest, running)
        served = replace(
            _served(bundle, manifest, limits, running),
            device_pool_bytes=device_pool_bytes(model),
            pinned_pool_bytes=pinned_pool_bytes(model),
            tensorrt=needs.tensorrt,
            gpu=needs.gpu,
            host_code=needs.host_code,
        )
        return _Part(bundle=bundle, contract=contract, configs=gpu_configs(model), files=files, served=served)
    if running.precision == "int8" and manifest.build.int8 is None:
        raise InvalidRequestError(
            "bad_parameter", f"{contract.name} has no int8 graph; run: tubelet quantise {bundle} --videos DIR"
        )
    steps = [step for step in step_tensors(contract) if step in GRAPHS]
    return _Part(
        bundle=bundle,
        contract=contract,
        configs=model_configs(manifest, limits, running),
        files={step: (name := graph_file(step, running.precision), name) for step in steps},
        served=_served(bundle, manifest, limits, running),
    )


def _ensemble_configs(contract: EnsembleContract, limits: Limits, running: Running) -> dict[str, pb.ModelConfig]:
    if running.target == "gpu":
        return {config.name: config for config in gpu_ensemble_configs(contract, limits, running)}
    return {config.name: config for config in ensemble_configs(contract, limits)}


def _served(bundle: Path, manifest: Manifest, limits: Limits, running: Running) -> ServedModel:
    contract = manifest.contract
    graphs = graphs_sha256(bundle, contract, running.precision, running.engine)
    return ServedModel(
        name=contract.name,
        contract_digest=contract.digest,
        entries=tuple(name for name, _ in ways_in(contract).values()),
        works_as=(contract.name,),
        canary_protocol=cheapest_protocol(contract),
        shm_bytes=_shm_bytes(contract),
        # A decoder gives no sign while it works, and may work this long; the rest is for the machine's other work.
        max_silence_s=limits.decode_timeout_s + 10,
        running=running,
        verified=manifest.build.has_passed(running.engine, running.precision, graphs_sha256=graphs),
    )


def _served_together(contract: EnsembleContract, members: Sequence[ServedModel]) -> ServedModel:
    return ServedModel(
        name=contract.name,
        contract_digest=contract.digest,
        entries=(contract.name,),
        works_as=(contract.name, *(member.name for member in members)),
        canary_protocol=cheapest_protocol(contract),
        shm_bytes=max(member.shm_bytes for member in members),
        max_silence_s=sum(member.max_silence_s for member in members),
        running=members[0].running,
        verified=all(member.verified for member in members),
        tensorrt=members[0].tensorrt,
        gpu=members[0].gpu,
    )


def _ensemble(name: str, names: Sequence[str], members: Mapping[str, _Part]) -> EnsembleContract:
    if unknown := [member for member in names if member not in members]:
        raise InvalidRequestError(
            "bad_parameter",
            f"ensemble {name} names {', '.join(unknown)}; there are bundles of {', '.join(members)}",
        )
    contracts = tuple(members[member].contract for member in names)
    try:
        return EnsembleContract(schema_version=1, name=name, members=contracts, aggregation="mean_probabilities")
    except ValueError as exc:
        raise ContractError("contract_mismatch", f"ensemble {name}: {exc}") from exc


def _shm_bytes(contract: Contract) -> int:
    """Shared memory that one process of a step starts with: the units of a default request, and room beside them.

    Growing a region costs more than a second for large tensors, so it should not happen with every first request.
    """
    unit, default = math.prod(contract.unit_shape), Protocol.parse(contract.default_protocol)
    full = contract.num_units(default) if default.is_full else 0
    return max(4 * 1024 * 1024, max(4 * contract.units_per_clip, full) * unit)
