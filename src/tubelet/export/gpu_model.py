"""What a bundle has for a card: its plans, or the graphs that ONNX Runtime runs there, and what they allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tubelet.export.configs import SAMPLE_PROCESSES
from tubelet.export.digests import file_sha256, graph_sha256
from tubelet.export.profiles import plan_profiles, plan_steps
from tubelet.spec.engine import Mode, Running, graph_file, plan_file
from tubelet.spec.errors import ContractError, InvalidRequestError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Manifest
from tubelet.spec.plan import Plan, PlanStep, Profile
from tubelet.spec.protocol import Protocol
from tubelet.spec.repository import Decoder
from tubelet.spec.tensors import GRAPH_STEPS, Step, step_tensors

__all__ = [
    "INSTANCES",
    "GpuModel",
    "PlanNeeds",
    "device_pool_bytes",
    "files_for_card",
    "find_gpu_model",
    "needs_of_plans",
    "pinned_pool_bytes",
]

INSTANCES: dict[Mode, int] = {"latency": 1, "throughput": 2}
"""Of the encoder: one has the card to itself; of two, one computes while the other's units are put together."""

_LEAST_DEVICE_POOL, _LEAST_PINNED_POOL = 64 * 2**20, 256 * 2**20
"""What Triton takes where nobody says: less would be no gain."""

_WIDE = 16 / 9
"""Width by height of a usual frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuModel:
    """What is served of a bundle on a card."""

    manifest: Manifest
    running: Running
    limits: Limits
    """What the operator allows; the shapes may allow less."""
    decoder: Decoder
    encoder_sha256: str
    """Of its encoder's graph and weights."""
    encoder: tuple[Profile, ...]
    """Shapes that its engine takes: batches of UNITS."""
    temporal: tuple[Profile, ...]
    """Shapes that the plan of step ``temporal`` takes; none: there is no plan, and it takes any."""

    @property
    def batches(self) -> tuple[int, ...]:
        """Units for which the encoder's kernels were chosen, rising."""
        return tuple(sorted({profile.inputs["UNITS"].opt[0] for profile in self.encoder}))

    @property
    def largest_batch(self) -> int:
        """Units in one run of the encoder, at most; a request's units are one batch or part of one."""
        return max(profile.inputs["UNITS"].most[0] for profile in self.encoder)

    @property
    def sample_limits(self) -> Limits:
        """Those of a request whose units are encoded in one go: step ``sample`` refuses it before Triton would."""
        rows = max(_most(self.temporal, "FEATURES"), default=self.largest_batch)
        return self._within(units=min(rows, self.largest_batch))

    @property
    def chunk_limits(self) -> Limits:
        """Those of a request whose units are encoded batch after batch, or were encoded before."""
        return self._within(units=max(_most(self.temporal, "FEATURES"), default=self.limits.max_units))

    def _within(self, *, units: int) -> Limits:
        views = max(_most(self.temporal, "CLIP_UNITS"), default=self.limits.max_views)
        return replace(
            self.limits, max_units=min(units, self.limits.max_units), max_views=min(views, self.limits.max_views)
        )


def find_gpu_model(bundle: Path, manifest: Manifest, *, limits: Limits, running: Running, decoder: Decoder) -> GpuModel:
    """What of a bundle is served on a card, after a look at everything that it takes.

    Raises:
        InvalidRequestError: ``bad_parameter``: there is no plan, or no graph, for the precision.
        ContractError: a plan is of another contract or graph, or is damaged.
    """
    contract, graph = manifest.contract, graph_file("encoder", running.precision, "gpu")
    if not (bundle / graph).is_file():
        raise _missing(bundle, manifest, running, "graph for GPUs")
    shapes: dict[PlanStep, tuple[Profile, ...]] = {}
    for step in plan_steps(contract):
        if running.engine == "tensorrt":
            shapes[step] = _find_plan(bundle, manifest, step, running).profiles
        elif step == "encoder":
            # Any engine takes what a plan would: the same requests are answered whoever multiplies.
            largest = manifest.build.largest_batch
            shapes[step] = plan_profiles(contract, step, largest_batch=largest, limits=limits)
    return GpuModel(
        manifest=manifest,
        running=running,
        limits=limits,
        decoder=decoder,
        encoder_sha256=graph_sha256(bundle, graph),
        encoder=shapes["encoder"],
        temporal=shapes.get("temporal", ()),
    )


def files_for_card(manifest: Manifest, running: Running) -> dict[Step, str]:
    """By step: the graph or the plan that Triton loads, from the bundle's folder."""
    planned = plan_steps(manifest.contract) if running.engine == "tensorrt" else ()
    return {
        step: plan_file(step, running.precision) if step in planned else graph_file(step, running.precision, "gpu")
        for step in step_tensors(manifest.contract, "gpu")
        if step in GRAPH_STEPS
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanNeeds:
    """What plans need where they are served."""

    tensorrt: str | None = None
    """The version; None: there is no plan, or others do as well."""
    gpu: str | None = None
    """As `tensorrt`, the name of the card."""
    host_code: bool = False
    """Whether a plan brings a TensorRT runtime along, so that its code has to be allowed to run."""


def needs_of_plans(bundle: Path, manifest: Manifest, running: Running) -> PlanNeeds:
    """What a bundle's plans need.

    Raises:
        ContractError: its plans need different versions or cards.
    """
    if running.engine != "tensorrt":
        return PlanNeeds()
    plans = [Plan.load(bundle / plan_file(step, running.precision)) for step in plan_steps(manifest.contract)]
    versions = {plan.tensorrt for plan in plans if not plan.options.compatible_versions}
    cards = {plan.gpu.name for plan in plans if plan.options.compatible_hardware == "none"}
    for needed in (versions, cards):
        if len(needed) > 1:
            raise ContractError(
                "contract_mismatch",
                f"the plans of {manifest.contract.name} need {' and '.join(sorted(needed))} at a time; "
                f"run: tubelet engine {bundle} --precision {running.precision}",
            )
    return PlanNeeds(
        tensorrt=next(iter(versions), None),
        gpu=next(iter(cards), None),
        host_code=any(plan.options.compatible_versions for plan in plans),
    )


def device_pool_bytes(model: GpuModel) -> int:
    """The card's memory that tensors between its steps take, when it has as much to do as it can.

    For each instance of the encoder: the batch that it computes, once more where that was put together from several
    requests, and the one that waits; and a request from each process of `sample`. UNITS outweigh all else by far, and
    FEATURES are counted too.
    """
    contract, mode = model.manifest.contract, model.running.mode
    width = contract.geometry.feature_dim or contract.num_classes
    batch = model.largest_batch * (math.prod(contract.unit_shape) + 4 * width)
    return _whole(batch * (3 * INSTANCES[mode] + SAMPLE_PROCESSES[mode]), least=_LEAST_DEVICE_POOL)


def pinned_pool_bytes(model: GpuModel) -> int:
    """The host's memory for FRAMES on their way: two requests of the default protocol for each process of `sample`.

    Triton puts into it all that a step of the host hands on. What finds no room lies in ordinary memory, from which the
    way to the card is slower.
    """
    contract = model.manifest.contract
    protocol = Protocol.parse(contract.default_protocol)
    if protocol.is_full:
        num_frames = protocol.num_frames or contract.most_units_per_clip * contract.geometry.unit_frames
    else:
        num_frames = protocol.num_clips * contract.sampler.num_frames
    side = contract.resize.short_side_px
    request = num_frames * side * math.ceil(side * _WIDE) * 3
    return _whole(2 * SAMPLE_PROCESSES[model.running.mode] * request, least=_LEAST_PINNED_POOL)


def _find_plan(bundle: Path, manifest: Manifest, step: PlanStep, running: Running) -> Plan:
    path = bundle / plan_file(step, running.precision)
    if not path.is_file():
        raise _missing(bundle, manifest, running, f"TensorRT plan of step {step}")
    plan = Plan.load(path)
    graph = graph_file(step, running.precision, "gpu")
    compared = {
        "its contract": (plan.contract_digest, manifest.contract_digest),
        graph: (plan.graph_sha256, graph_sha256(bundle, graph)),
        path.name: (plan.plan_sha256, file_sha256(path)),
    }
    for what, (built, found) in compared.items():
        if built != found:
            raise ContractError(
                "contract_mismatch",
                f"{path.name} says {built} of {what}, but {found} is here; build it again: "
                f"tubelet engine {bundle} --precision {running.precision}",
            )
    return plan


def _missing(bundle: Path, manifest: Manifest, running: Running, what: str) -> InvalidRequestError:
    precision = running.precision
    command = f"tubelet engine {bundle} --precision {precision}"
    if precision in ("int8", "fp8"):
        command += " --videos DIR"
    if running.engine != "tensorrt":
        command += " --graph-only"
    return InvalidRequestError(
        "bad_parameter", f"{manifest.contract.name} has no {what} at {precision}; run: {command}"
    )


def _whole(size: int, *, least: int) -> int:
    """To the next MiB."""
    return max(least, math.ceil(size / 2**20) * 2**20)


def _most(profiles: Sequence[Profile], name: str) -> list[int]:
    """The largest first axis of an input, by profile."""
    return [profile.inputs[name].most[0] for profile in profiles]
