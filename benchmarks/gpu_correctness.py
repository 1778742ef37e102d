"""Whether a card computes what the processor computes: the graphs of the steps units, encoder, temporal and average."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gpu_lowering import DTYPES, lower
from gpu_networks import FAMILIES, Views, contract_for, random_network
from gpu_pipeline import Pipeline, random_units
from torch import Tensor

from tubelet.export.graphs import AverageViews, MakeUnits
from tubelet.models.network import VideoNetwork
from tubelet.preprocess.geometry import cut_units
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.manifest import Contract

__all__ = ["Finding", "check_average", "check_logits", "check_network", "check_units", "judge", "names"]

AVERAGE_BUDGET = 2e-6
"""Logits of mean probabilities are differences of numbers near 6, where the steps of float32 are 5e-7."""

DECIDES = ("cvidtr_s_k400",)
"""Which times its pooling keeps may turn on the last bit: compared at float32 alone."""

VIEWS = Views(title="6 views", num_clips=2, num_crops=3)
ONE = Views(title="1 view", num_clips=1, num_crops=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One comparison."""

    what: str
    found: float
    budget: float
    at_least: bool
    """Whether the budget is the least (a cosine) or the most (a difference)."""

    @property
    def ok(self) -> bool:
        """NaN is never right."""
        return self.found >= self.budget if self.at_least else self.found <= self.budget

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        sign = "at least" if self.at_least else "at most"
        return {"what": self.what, "found": self.found, sign: self.budget, "ok": self.ok}


def check_network(name: str, device: torch.device, *, tiny: bool) -> list[Finding]:
    """All comparisons of one network; at full size with one view, since the processor has to compute it too."""
    network = random_network(name, tiny=tiny, device=torch.device("cpu"))
    contract = contract_for(name, network)
    findings = [check_units(contract, device), check_average(contract, device)]
    return findings + check_logits(network, contract, device, views=VIEWS if tiny else ONE)


def check_units(contract: Contract, device: torch.device) -> Finding:
    """`MakeUnits` on the card against the server's NumPy step: bytes that differ."""
    generator = np.random.default_rng(2)
    side, t = contract.crop.size_px, contract.geometry.unit_frames
    frames = generator.integers(0, 256, size=(2 * t + 1, side + 9, side + 20, 3), dtype=np.uint8)
    unit_frames = generator.integers(0, len(frames), size=(4, t), dtype=np.int32)
    crops = np.array([(0, 0), (4, 10), (9, 20)], dtype=np.int32)
    feeds = [torch.from_numpy(array).to(device) for array in (frames, unit_frames, crops)]
    with device, torch.inference_mode():
        found = MakeUnits(contract)(*feeds)
    expected = torch.from_numpy(cut_units(frames, unit_frames, crops, size_px=side))
    differing = int((found.cpu() != expected).sum()) if found.shape == expected.shape else expected.numel()
    return Finding(what="units: bytes that differ", found=differing, budget=0, at_least=False)


def check_average(contract: Contract, device: torch.device) -> Finding:
    """`AverageViews` of the same 30 views on the card and on the processor: the largest difference."""
    view_logits = torch.randn(30, contract.num_classes, generator=torch.Generator().manual_seed(3))
    average = AverageViews(contract)
    with torch.inference_mode():
        expected = average(view_logits)
        with device:
            found = average(view_logits.to(device))
    differences = [_largest(one, other) for one, other in zip(found, expected, strict=True)]
    return Finding(what="average", found=max(differences), budget=AVERAGE_BUDGET, at_least=False)


def check_logits(network: VideoNetwork, contract: Contract, device: torch.device, *, views: Views) -> list[Finding]:
    """Encoder, temporal stage and average, at every precision, against float32 on the processor.

    Args:
        network: float32, on the processor.
        contract: of the network.
        device: the card.
        views: what is asked for.
    """
    cpu = torch.device("cpu")
    units = random_units(contract, views.num_units(network), cpu)
    with torch.inference_mode():
        encoder = lower(network, contract.normalisation, "fp32", rewritten=False)
        encoded = encoder(units)
        expected = Pipeline(encoder, network, contract, views)(units)
    there = copy.deepcopy(network).to(device)
    findings = []
    for precision in DTYPES if contract.name not in DECIDES else ("fp32",):
        for rewritten in (False, True):
            encoder = lower(there, contract.normalisation, precision, rewritten=rewritten)
            with torch.inference_mode():
                found = Pipeline(encoder, there, contract, views)(units.to(device))
            what = f"{precision}{', rewritten' if rewritten else ''}"
            findings += judge(what, found, expected, precision)
            if precision == "fp32":
                with torch.inference_mode():
                    difference = _largest(encoder(units.to(device)), encoded)
                budget = BUDGETS["engine-fp32/torch-fp32"].max_abs_logit or 0.0
                findings.append(Finding(what=f"encoder, {what}", found=difference, budget=budget, at_least=False))
    return findings


def judge(what: str, found: Tensor, expected: Tensor, precision: str) -> list[Finding]:
    """Holds LOGITS `[C]` against those of float32 on the processor, by the budget of their precision."""
    budget = BUDGETS[f"engine-{precision}/torch-fp32"]
    a, b = found.double().cpu(), expected.double()
    cosine = float(a @ b / a.norm() / b.norm())
    findings = [Finding(what=f"logits, {what}: cosine", found=cosine, budget=budget.min_cosine, at_least=True)]
    if budget.max_abs_logit is not None:
        difference = _largest(found, expected)
        findings.append(Finding(what=f"logits, {what}", found=difference, budget=budget.max_abs_logit, at_least=False))
    return findings


def _largest(one: Tensor, other: Tensor) -> float:
    """The largest difference; infinite where something is no number."""
    difference = (one.double().cpu() - other.double().cpu()).abs().max().item()
    return difference if difference == difference else float("inf")


def names(*, tiny: bool) -> list[str]:
    """Networks that are compared at this size."""
    return [name for name, full_size_too in FAMILIES.items() if tiny or full_size_too]
