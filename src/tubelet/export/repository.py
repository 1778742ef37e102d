"""Writes Triton model repositories from bundles."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tubelet.export.chain import graphs_sha256
from tubelet.export.configs import GRAPHS, PRODUCT_LABELS, ensemble_configs, model_configs
from tubelet.export.staging import link_or_copy
from tubelet.preprocess.canary import canary_video
from tubelet.spec.engine import DEFAULT_RUNNING, Running, graph_file
from tubelet.spec.ensemble import EnsembleContract
from tubelet.spec.errors import ContractError, InvalidRequestError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract, Manifest
from tubelet.spec.protocol import ANY_CLIPS, ANY_FULL, Protocol
from tubelet.spec.repository import RepositoryIndex, ServedModel
from tubelet.spec.tensors import ways_in

__all__ = ["Target", "write_repository"]

Target = Literal["cpu"]

_LEAST = {ANY_CLIPS: "1x1", ANY_FULL: "full8"}
"""Of protocols that stand for many: one that asks little."""


def write_repository(
    bundles: Sequence[Path],
    *,
    target: Target,
    out: Path,
    limits: Limits,
    running: Running = DEFAULT_RUNNING,
    ensembles: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> RepositoryIndex:
    """Writes one model repository that serves all ``bundles``.

    What ``out`` holds of these models is replaced; other models in it are left as they are, but are served no more.

    Args:
        bundles: folders written by `tubelet export`.
        target: ``cpu``; decides the backend of every step.
        out: the repository's folder.
        limits: hold for every model of the repository.
        running: how every model's encoder runs.
        ensembles: public names under which several of the models answer together, each with the models' names.

    Returns:
        What was written into the repository's index; it says which models are not verified for ``running``.

    Raises:
        ContractError: a bundle is damaged, two models have one name, or models cannot answer together.
        InvalidRequestError: the target does not exist, an ensemble names a model that is not among the bundles, or a
            bundle has no graph for the precision.
    """
    if target != "cpu":
        raise InvalidRequestError("bad_parameter", f"target must be 'cpu', got {target!r}")
    manifests = [Manifest.load(bundle) for bundle in bundles]
    members = {m.contract.name: (bundle, m.contract) for bundle, m in zip(bundles, manifests, strict=True)}
    together = [_ensemble(name, parts, members) for name, parts in ensembles.items()]
    folders = [name for manifest in manifests for name in model_configs(manifest, limits, running)]
    folders += [config.name for contract in together for config in ensemble_configs(contract, limits)]
    if twice := sorted({name for name in folders if folders.count(name) > 1}):
        raise ContractError("contract_mismatch", f"a name can be served once, got twice {', '.join(twice)}; rename one")
    served = [_served(bundle, m, limits, running) for bundle, m in zip(bundles, manifests, strict=True)]
    out.mkdir(parents=True, exist_ok=True)
    for bundle, manifest in zip(bundles, manifests, strict=True):
        _write_model(bundle, manifest, out, limits, running)
    for contract in together:
        bundle, first = members[contract.members[0].name]
        _write_ensemble(contract, _all_labels(bundle, first), out, limits)
    alone = {model.name: model for model in served}
    served += [_served_together(contract, [alone[member.name] for member in contract.members]) for contract in together]
    # Written last: `tubelet serve` refuses a repository without it.
    index = RepositoryIndex(schema_version=1, target=target, models=tuple(served))
    index.save(out)
    return index


def _served(bundle: Path, manifest: Manifest, limits: Limits, running: Running) -> ServedModel:
    contract = manifest.contract
    if running.precision == "int8" and manifest.build.int8 is None:
        raise InvalidRequestError(
            "bad_parameter", f"{contract.name} has no int8 graph; run: tubelet quantise {bundle} --videos DIR"
        )
    graphs = graphs_sha256(bundle, contract, running.precision)
    return ServedModel(
        name=contract.name,
        contract_digest=contract.digest,
        entries=tuple(name for name, _ in ways_in(contract).values()),
        works_as=(contract.name,),
        canary_protocol=_cheapest((contract,), contract.protocols),
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
        canary_protocol=_cheapest(contract.members, contract.protocols),
        shm_bytes=max(member.shm_bytes for member in members),
        max_silence_s=sum(member.max_silence_s for member in members),
        running=members[0].running,
        verified=all(member.verified for member in members),
    )


def _cheapest(members: Sequence[Contract], protocols: Sequence[str]) -> str:
    """The protocol that asks least of models which all have it."""
    named = {_LEAST.get(protocol, protocol) for protocol in protocols}
    return min(
        sorted(named), key=lambda protocol: sum(_num_units(member, Protocol.parse(protocol)) for member in members)
    )


def _num_units(contract: Contract, protocol: Protocol) -> int:
    """Units that a protocol asks of a long video, at most."""
    if protocol.num_frames is not None:
        return protocol.num_frames // contract.geometry.unit_frames
    if protocol.is_full:
        return contract.most_units_per_clip
    return protocol.num_views * contract.units_per_clip


def _ensemble(name: str, parts: Sequence[str], members: Mapping[str, tuple[Path, Contract]]) -> EnsembleContract:
    if unknown := [part for part in parts if part not in members]:
        raise InvalidRequestError(
            "bad_parameter",
            f"ensemble {name} names {', '.join(unknown)}; there are bundles of {', '.join(members)}",
        )
    contracts = tuple(members[part][1] for part in parts)
    try:
        return EnsembleContract(schema_version=1, name=name, members=contracts, aggregation="mean_probabilities")
    except ValueError as exc:
        raise ContractError("contract_mismatch", f"ensemble {name}: {exc}") from exc


def _write_model(bundle: Path, manifest: Manifest, out: Path, limits: Limits, running: Running) -> None:
    contract = manifest.contract
    labels = _all_labels(bundle, contract)
    graphs = {f"{contract.name}_{step}": graph_file(step, running.precision) for step in GRAPHS}
    for name, config in model_configs(manifest, limits, running).items():
        _write_folder(out / name, config, labels={"labels.txt": labels} if config.platform == "ensemble" else {})
        if config.platform == "ensemble":
            continue
        step = name.removeprefix(f"{contract.name}_")
        _write_shim(out / name, step)
        if name in graphs:
            _place(bundle, graphs[name], out / name / "1")
    average = out / f"{contract.name}_average" / "1"
    (average / "labels.txt").write_text(labels, encoding="utf-8")
    if contract.product is not None:
        product = _product_labels(bundle, contract)
        for folder in (average, *(out / name for name, _ in ways_in(contract).values())):
            (folder / PRODUCT_LABELS).write_text(product, encoding="utf-8")
    _write_warmup(out / f"{contract.name}_sample")


def _write_ensemble(contract: EnsembleContract, labels: str, out: Path, limits: Limits) -> None:
    for config in ensemble_configs(contract, limits):
        public = config.platform == "ensemble"
        _write_folder(out / config.name, config, labels={"labels.txt": labels} if public else {})
        if not public:
            _write_shim(out / config.name, "combine")
            (out / config.name / "1" / "labels.txt").write_text(labels, encoding="utf-8")


def _write_folder(folder: Path, config: pb.ModelConfig, *, labels: Mapping[str, str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1").mkdir(parents=True)
    text = text_format.MessageToString(config, use_short_repeated_primitives=True)
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    if config.platform == "ensemble":
        # An ensemble's version is an empty folder, which git and archives would drop.
        (folder / "1" / ".keep").touch()
    for name, content in labels.items():
        (folder / name).write_text(content, encoding="utf-8")


def _write_shim(folder: Path, step: str) -> None:
    shim = f"from tubelet.server.steps.{step} import TritonPythonModel\n"
    (folder / "1" / "model.py").write_text(shim, encoding="utf-8")


def _all_labels(bundle: Path, contract: Contract) -> str:
    """One label a line for each entry of PROBABILITIES; with several heads, the head's name stands before it."""
    if len(contract.heads) == 1:
        return (bundle / "labels.txt").read_text(encoding="utf-8")
    files = {head.name: bundle / f"labels.{head.name}.txt" for head in contract.heads}
    return "".join(
        f"{name}: {label}\n" for name, file in files.items() for label in file.read_text(encoding="utf-8").splitlines()
    )


def _product_labels(bundle: Path, contract: Contract) -> str:
    """One label a line for each entry of PRODUCT: the labels of the heads side by side, the last head's fastest."""
    lists = [(bundle / f"labels.{h.name}.txt").read_text(encoding="utf-8").splitlines() for h in contract.heads]
    return "".join(", ".join(labels) + "\n" for labels in itertools.product(*lists))


def _place(bundle: Path, graph: str, version: Path) -> None:
    """Puts a graph, and its weights file where it has one, into a version's folder."""
    for source in (bundle / graph, bundle / f"{graph}.data"):
        if source.is_file():
            link_or_copy(source, version / source.name)


def _write_warmup(folder: Path) -> None:
    """Triton's form of a BYTES element in a file: four bytes of length, little-endian, then the bytes."""
    video = canary_video()
    (folder / "warmup").mkdir()
    (folder / "warmup" / "VIDEO").write_bytes(len(video).to_bytes(4, "little") + video)


def _shm_bytes(contract: Contract) -> int:
    """Shared memory that one process of a step starts with: the units of a default request, and room beside them.

    Growing a region costs more than a second for large tensors, so it should not happen with every first request.
    """
    unit = math.prod(contract.unit_shape)
    default = _num_units(contract, Protocol.parse(contract.default_protocol))
    full = default if contract.default_protocol.startswith("full") else 0
    return max(4 * 1024 * 1024, max(4 * contract.units_per_clip, full) * unit)
