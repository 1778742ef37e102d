"""What `tubelet engine` is about to build: one job for each plan, and what there is to say of it before and after."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tubelet.export.profiles import MOST_VIEWS, plan_profiles, plan_steps
from tubelet.export.stored import read_proto
from tubelet.export.tensorrt_ops import check_tensorrt_support, most_numbers
from tubelet.spec.engine import Precision, graph_file, plan_file
from tubelet.spec.errors import ContractError, InternalError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Manifest
from tubelet.spec.plan import BuildOptions, Plan, PlanStep, Profile

__all__ = ["Job", "Wishes", "check_supported", "describe", "findings", "make_jobs", "size_warning"]

_BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "fp8": 1.0}
_TOO_MANY_BYTES = 1.5
"""Times what the precision should take: 2 would be the next wider type."""
_MOST_BLOCKS = 65_535
"""Of a CUDA grid's second and third dimension."""

_MOST_NUMBERS = 2**31 - 1
"""Of a tensor, as TensorRT's operators state it one by one (Convolution, "volume limits")."""

_FEW_WEIGHTS = 1_000_000
"""Of fewer, a plan's kernels weigh more than its weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What the caller asks for."""

    precision: Precision
    videos: Path | None = None
    """To calibrate int8 and fp8 on."""
    options: BuildOptions = field(default_factory=BuildOptions)
    timing_cache: Path | None = None
    most_views: int = MOST_VIEWS


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One plan that is to be built."""

    step: PlanStep
    precision: Precision
    bundle: Path
    profiles: tuple[Profile, ...]
    layers: dict[str, int]
    """How many of each operator, the most frequent first."""
    num_weights: int
    unsupported: tuple[str, ...]
    """What TensorRT's parser would refuse."""
    most_numbers: int = 0
    """Numbers of the encoder's largest tensor, for one unit."""
    most_heads: int = 0
    """Attention heads of one unit, where attention is one node: VidTr folds places or times into them."""

    @property
    def graph(self) -> str:
        """The ONNX file, from the bundle's folder."""
        return graph_file(self.step, self.precision, "gpu")

    @property
    def plan(self) -> str:
        """The plan, from the bundle's folder."""
        return plan_file(self.step, self.precision)


def make_jobs(bundle: Path, manifest: Manifest, wishes: Wishes) -> list[Job]:
    """The plans of a bundle, encoder first.

    Raises:
        ContractError: a graph is missing, or was made for another contract.
        InvalidRequestError: ``bad_parameter``: more views than the limits allow.
    """
    return [_job(bundle, manifest, wishes, step) for step in plan_steps(manifest.contract)]


def _job(bundle: Path, manifest: Manifest, wishes: Wishes, step: PlanStep) -> Job:
    precision: Precision = wishes.precision if step == "encoder" else "fp32"
    path = bundle / graph_file(step, precision, "gpu")
    if not path.is_file():
        raise ContractError("contract_mismatch", f"{path.name} is not there; export the bundle again")
    model = read_proto(path, weights=False)
    noted = {entry.key: entry.value for entry in model.metadata_props}
    digest = noted.get("contract_digest")
    if digest != manifest.contract_digest:
        raise ContractError(
            "contract_mismatch",
            f"{path.name} was exported for {digest}, the bundle is {manifest.contract_digest}; make it again",
        )
    return Job(
        step=step,
        precision=precision,
        bundle=bundle,
        profiles=plan_profiles(
            manifest.contract,
            step,
            largest_batch=manifest.build.largest_batch,
            most_views=wishes.most_views,
            limits=Limits(),
        ),
        layers=dict(Counter(node.op_type for node in model.graph.node).most_common()),
        num_weights=sum(math.prod(tensor.dims) for tensor in model.graph.initializer),
        unsupported=tuple(map(str, check_tensorrt_support(path))),
        most_numbers=most_numbers(path) if step == "encoder" else 0,
        most_heads=int(noted.get("attention_most_heads", 0)),
    )


def check_supported(jobs: Sequence[Job]) -> None:
    """Makes sure that TensorRT's parser takes every graph, as far as its list says.

    Raises:
        InternalError: ``internal``: it would not.
    """
    if refused := [f"{job.graph}: {finding}" for job in jobs for finding in job.unsupported]:
        raise InternalError(
            "internal",
            f"TensorRT's parser would refuse {'; '.join(refused)}; export the bundle again, or report this",
        )


def describe(job: Job, options: BuildOptions) -> Iterator[str]:
    """What is to be built, line by line."""
    files = (job.bundle / job.graph, job.bundle / f"{job.graph}.data")
    size = sum(file.stat().st_size for file in files if file.is_file())
    yield f"{job.step}: {job.graph}, {size / 1e6:.1f} MB, {job.num_weights / 1e6:.1f} million weights"
    yield f"  layers: {', '.join(f'{count} {kind}' for kind, count in job.layers.items())}"
    for finding in job.unsupported:
        yield f"  TensorRT's parser would refuse {finding}"
    if not job.unsupported:
        yield "  TensorRT's parser takes every layer, as far as its list says"
    for index, profile in enumerate(job.profiles):
        for name, shapes in profile.inputs.items():
            least, opt, most = ("x".join(map(str, shape)) for shape in (shapes.least, shapes.opt, shapes.most))
            yield f"  profile {index}, {profile.name}: {name} {least} to {most}, kernels for {opt}"
    for remark in filter(None, (_grid_remark(job), _volume_remark(job))):
        yield f"  {remark}"
    yield (
        f"  strongly typed, no TF32; workspace {options.workspace_gib} GiB, builder level {options.builder_level}, "
        f"compatible versions {'yes' if options.compatible_versions else 'no'}, "
        f"compatible hardware {options.compatible_hardware}, refit {'yes' if options.refit else 'no'}"
    )
    yield f"  gives {job.plan}, {job.plan}.json"


def _grid_remark(job: Job) -> str | None:
    """What to do where kernels that launch a block for each head of each unit come to their end."""
    most_units = max(map(_most_units, job.profiles))
    if job.most_heads * most_units <= _MOST_BLOCKS:
        return None
    return (
        f"remark: {job.most_heads} attention heads of {most_units} units are more than {_MOST_BLOCKS}, which some "
        f"kernels cannot launch; if the build fails, take --most-views {_MOST_BLOCKS // job.most_heads}"
    )


def _volume_remark(job: Job) -> str | None:
    """What to do where a tensor outgrows 32-bit addresses: the scores of unfused attention over whole views do."""
    one_view, most_units = _most_units(job.profiles[0]), max(map(_most_units, job.profiles))
    if job.most_numbers * most_units <= _MOST_NUMBERS:
        return None
    return (
        f"remark: a tensor has {job.most_numbers * most_units:.1e} numbers for {most_units} units, and many kernels "
        f"end at {_MOST_NUMBERS:.1e}; if the build fails, take --most-views "
        f"{max(1, _MOST_NUMBERS // (job.most_numbers * one_view))}"
    )


def _most_units(profile: Profile) -> int:
    return max(shapes.most[0] for shapes in profile.inputs.values())


def size_warning(*, plan_bytes: int, num_weights: int, precision: Precision) -> str | None:
    """What is suspicious about a plan's size: builders have fallen back to wider types in silence."""
    per_weight, expected = plan_bytes / max(num_weights, 1), _BYTES_PER_WEIGHT[precision]
    if num_weights < _FEW_WEIGHTS or per_weight <= _TOO_MANY_BYTES * expected:
        return None
    return (
        f"warning: the plan has {per_weight:.1f} bytes per weight, {precision} should take about {expected:.0f}; "
        "it may compute in a wider type"
    )


def findings(job: Job, about: Plan) -> Iterator[str]:
    """What is to be said of a plan that was built, line by line."""
    yield f"{job.plan}: {about.plan_bytes / 1e6:.1f} MB, {about.build_s:.0f} s"
    if about.num_attentions:
        yield f"{about.num_fused_attentions} of {about.num_attentions} attentions are one kernel"
    if about.num_fused_attentions < about.num_attentions:
        yield "warning: attention that is not one kernel writes the scores of all pairs of tokens to memory"
    warning = size_warning(plan_bytes=about.plan_bytes, num_weights=job.num_weights, precision=job.precision)
    if warning is not None:
        yield warning
