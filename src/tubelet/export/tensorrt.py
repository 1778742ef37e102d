"""TensorRT plans for a bundle: which graphs, in which shapes, and what stands beside what came out.

What decides is here and needs no TensorRT, so that a build can be looked at on any machine (`describe_engines`);
`tubelet.export.tensorrt_build` calls TensorRT.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tubelet.checkpoints.load import sha256_file
from tubelet.engines.gpu import find_gpu, find_tensorrt
from tubelet.export.digests import graph_sha256
from tubelet.export.gpu_graphs import make_gpu_graph
from tubelet.export.tensorrt_jobs import Job, Wishes, check_supported, describe, findings, make_jobs
from tubelet.spec.engine import graph_file
from tubelet.spec.errors import ContractError
from tubelet.spec.manifest import Manifest
from tubelet.spec.plan import Gpu, Plan

__all__ = ["build_engines", "describe_engines", "make_graph"]


def build_engines(
    bundle: Path, wishes: Wishes, *, progress: Callable[[str], None] = lambda line: None
) -> tuple[Plan, ...]:
    """Builds a bundle's plans for the GPU of this machine, for the encoder and, where there is one, the temporal stage.

    A temporal plan that is there already and fits is kept: it has one precision only.

    Args:
        bundle: folder of the bundle; gets the graph, the plans, and what stands beside them.
        wishes: what to build.
        progress: told what is being done, line by line.

    Returns:
        What stands beside each plan.

    Raises:
        MachineError: ``missing``: no TensorRT, no GPU, or TensorRT finds no plan for it.
        ContractError: the folder is no bundle, or the timing cache is of another machine.
        InvalidRequestError: ``bad_parameter``, ``bad_input``: of the views, or of the videos to calibrate on.
        InternalError: ``internal``: TensorRT cannot read a graph that we have made.
    """
    machine = _Machine(tensorrt=find_tensorrt(), gpu=find_gpu())
    manifest = Manifest.load(bundle)
    if wishes.timing_cache is not None:
        wishes.timing_cache.parent.mkdir(parents=True, exist_ok=True)
    make_graph(bundle, wishes, progress=progress)
    jobs = make_jobs(bundle, manifest, wishes)
    for job in jobs:
        for line in describe(job, wishes.options):
            progress(line)
    check_supported(jobs)
    return tuple(_build(job, manifest, wishes, machine=machine, progress=progress) for job in jobs)


def describe_engines(
    bundle: Path, wishes: Wishes, *, progress: Callable[[str], None] = lambda line: None
) -> Iterator[str]:
    """What `build_engines` would do, line by line; needs neither TensorRT nor a GPU, and leaves the bundle as it is.

    Raises:
        ContractError: the folder is no bundle.
        InvalidRequestError: as `build_engines`.
        InternalError: ``internal``, after all lines: TensorRT's parser would refuse a graph.
    """
    manifest = Manifest.load(bundle)
    yield f"{manifest.contract.name}, contract {manifest.contract_digest}, {wishes.precision}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        for path in (path for path in bundle.rglob("*") if path.suffix in (".onnx", ".data", ".json")):
            place = folder / path.relative_to(bundle)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path.absolute())
        make_graph(folder, wishes, progress=progress)
        jobs = make_jobs(folder, manifest, wishes)
        for job in jobs:
            yield from describe(job, wishes.options)
    check_supported(jobs)


def make_graph(bundle: Path, wishes: Wishes, *, progress: Callable[[str], None]) -> str:
    """Makes the graph that the encoder's plan is built from.

    One of int8 or fp8 that is there already is taken where there are no videos to make another.

    Returns:
        Its path, from the bundle's folder.

    Raises:
        ContractError: the folder is no bundle.
        InvalidRequestError: as `tubelet.export.gpu_graphs.make_gpu_graph`.
    """
    precision = wishes.precision
    name = graph_file("encoder", precision, "gpu")
    is_there = precision in ("int8", "fp8") and wishes.videos is None and (bundle / name).is_file()
    if precision != "fp32" and not is_there:
        make_gpu_graph(bundle, precision, videos=wishes.videos, progress=progress)
    return name


@dataclass(frozen=True, slots=True)
class _Machine:
    tensorrt: str
    gpu: Gpu


def _build(job: Job, manifest: Manifest, wishes: Wishes, *, machine: _Machine, progress: Callable[[str], None]) -> Plan:
    from tubelet.export import tensorrt_build  # imports TensorRT

    graph_digest = graph_sha256(job.bundle, job.graph)
    if job.step == "temporal" and (kept := _kept(job, wishes, graph_digest, machine)) is not None:
        progress(f"{job.plan} is there already")
        return kept
    progress(f"building {job.plan} on {machine.gpu.name}; this takes minutes")
    cache = wishes.timing_cache
    began = time.monotonic()
    built = tensorrt_build.build_plan(
        job.bundle / job.graph,
        job.profiles,
        wishes.options,
        name=f"{manifest.contract.name} {job.step} {manifest.contract_digest[:19]}",
        timing_cache=cache.read_bytes() if cache is not None and cache.is_file() else b"",
        progress=progress,
    )
    about = Plan(
        schema_version=1,
        contract_digest=manifest.contract_digest,
        step=job.step,
        precision=job.precision,
        graph=job.graph,
        graph_sha256=graph_digest,
        tensorrt=machine.tensorrt,
        gpu=machine.gpu,
        profiles=job.profiles,
        options=wishes.options,
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        plan_bytes=len(built.plan),
        build_s=round(time.monotonic() - began, 1),
        num_attentions=job.layers.get("Attention", 0),
        num_fused_attentions=built.num_fused_attentions,
    )
    _place(job.bundle / job.plan, built.plan, about)
    if cache is not None:
        _write(cache, built.timing_cache)
    for line in findings(job, about):
        progress(line)
    return about


def _kept(job: Job, wishes: Wishes, graph_digest: str, machine: _Machine) -> Plan | None:
    """The plan that is there, where building it again would give the same."""
    try:
        found = Plan.load(job.bundle / job.plan)
    except ContractError:
        return None
    wanted = (graph_digest, machine.tensorrt, machine.gpu, job.profiles, wishes.options)
    same = (found.graph_sha256, found.tensorrt, found.gpu, found.profiles, found.options) == wanted
    return found if same and sha256_file(job.bundle / job.plan) == found.plan_sha256 else None


def _place(plan: Path, content: bytes, about: Plan) -> None:
    """Puts a plan in the place of the old one; what stands beside it never speaks of another plan."""
    plan.parent.mkdir(exist_ok=True)
    plan.with_name(f"{plan.name}.json").unlink(missing_ok=True)
    _write(plan, content)
    about.save(plan)


def _write(place: Path, content: bytes) -> None:
    partial = place.with_name(f".{place.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)
