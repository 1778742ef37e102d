"""TensorRT plans: the shapes that they take, what they were built from, and where.

TensorRT's files carry no words of their own, so these stand beside each, in ``<plan>.json``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tubelet.spec.engine import Precision
from tubelet.spec.errors import ContractError, RecipeError
from tubelet.spec.files import save_json
from tubelet.spec.strict import decode

__all__ = ["BuildOptions", "CompatibleHardware", "Gpu", "Plan", "PlanStep", "Profile", "Shapes", "check_plan_fits"]

PlanStep = Literal["encoder", "temporal"]
"""The steps that are plans; the others are graphs on every target."""

CompatibleHardware = Literal["none", "same-compute-capability", "ampere-plus"]
"""Which other GPUs a plan runs on than the one that built it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shapes:
    """From which to which size each axis of an input may have, and for which sizes the kernels are chosen."""

    least: tuple[int, ...]
    opt: tuple[int, ...]
    most: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.least) == len(self.opt) == len(self.most):
            raise ValueError("least, opt and most must have equally many axes")
        if any(not 1 <= a <= b <= c for a, b, c in zip(self.least, self.opt, self.most, strict=True)):
            raise ValueError(
                f"1 <= least <= opt <= most is expected on each axis, got {self.least}, {self.opt}, {self.most}"
            )

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape is within."""
        return len(shape) == len(self.least) and all(
            a <= size <= b for a, size, b in zip(self.least, shape, self.most, strict=True)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """One of the plan's optimisation profiles: the shapes of all inputs for one kind of request."""

    name: str
    inputs: dict[str, Shapes]

    def holds(self, shapes: dict[str, tuple[int, ...]]) -> bool:
        """Whether tensors of these shapes are within."""
        return shapes.keys() == self.inputs.keys() and all(
            self.inputs[name].holds(shape) for name, shape in shapes.items()
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """What the caller decides of a build."""

    workspace_gib: int = 16
    """Most memory that a kernel may use for itself while it is tried and when it runs."""
    builder_level: int = 3
    """0 to 5: how long TensorRT looks for faster kernels."""
    compatible_versions: bool = False
    """Whether later TensorRT versions of the same major version can run the plan; it then brings a runtime along."""
    compatible_hardware: CompatibleHardware = "none"
    refit: bool = False
    """Whether the weights can be exchanged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A graphics card and its driver."""

    name: str
    compute_capability: str
    driver: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What lies in a plan's ``<plan>.json``."""

    schema_version: Literal[1]
    contract_digest: str
    step: PlanStep
    precision: Precision
    graph: str
    """The ONNX file, from the bundle's folder."""
    graph_sha256: str
    """Of the graph and its weights."""
    tensorrt: str
    """The version that built it, and the only one that runs it, `BuildOptions.compatible_versions` apart."""
    gpu: Gpu
    """On which it was built."""
    profiles: tuple[Profile, ...]
    options: BuildOptions
    plan_sha256: str
    plan_bytes: int
    build_s: float
    num_attentions: int
    """Attention nodes in the graph; 0 where the graph has the operations that they are made of."""
    num_fused_attentions: int
    """Layers of the plan that are kernels for a whole attention, as TensorRT names them."""

    @classmethod
    def load(cls, plan: Path) -> Plan:
        """Reads what stands beside a plan.

        Raises:
            ContractError: there is no plan, or nothing beside it that can be read.
        """
        try:
            data = json.loads(_beside(plan).read_text(encoding="utf-8"))
            found = decode(cls, data, where=_beside(plan).name)
        except (OSError, ValueError, RecipeError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else str(exc)
            raise ContractError(
                "contract_mismatch", f"{plan.name} has no {_beside(plan).name} that can be read ({why}); {_AGAIN}"
            ) from exc
        if not plan.is_file():
            raise ContractError("contract_mismatch", f"{plan.name} is not there; {_AGAIN}")
        return found

    def save(self, plan: Path) -> None:
        """Writes it beside a plan; who reads meanwhile sees the old one or the new one."""
        save_json(self, _beside(plan), indent=2)


_AGAIN = "build it again: tubelet engine"


def check_plan_fits(plan: Plan, *, contract_digest: str, graph_sha256: str, tensorrt: str, gpu: Gpu) -> None:
    """Makes sure that a plan can run here, and computes what the bundle holds.

    Args:
        plan: what stands beside it.
        contract_digest: of the bundle.
        graph_sha256: of the graph in the bundle, with its weights.
        tensorrt: the version that would run it.
        gpu: on which it would run.

    Raises:
        ContractError: it belongs to another bundle, graph, TensorRT or GPU.
    """
    wanted = {
        "contract": (plan.contract_digest, contract_digest),
        plan.graph: (plan.graph_sha256, graph_sha256),
    }
    if not plan.options.compatible_versions:
        wanted["TensorRT"] = plan.tensorrt, tensorrt
    if plan.options.compatible_hardware == "same-compute-capability":
        wanted["compute capability"] = plan.gpu.compute_capability, gpu.compute_capability
    elif plan.options.compatible_hardware == "none":
        wanted["GPU"] = plan.gpu.name, gpu.name
    for what, (built, found) in wanted.items():
        if built != found:
            raise ContractError(
                "contract_mismatch",
                f"the plan of step {plan.step} was built for {what} {built}, but {found} is here; {_AGAIN}",
            )


def _beside(plan: Path) -> Path:
    return plan.with_name(f"{plan.name}.json")
