"""How fast one network is on the card: milliseconds of a video, and its part of the card's matrix peak."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_lowering import lower
from gpu_machine import measure_ceilings
from gpu_networks import Case, Views, Work, contract_for, random_network, work_of
from gpu_pipeline import Pipeline, as_cuda_graph, compile_blocks, random_units, time_calls
from gpu_report import WAYS, Way
from gpu_section import Section
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tubelet.models.network import VideoNetwork
from tubelet.spec.manifest import Contract

__all__ = ["Plan", "measure_case", "plans_of"]

LEAST_SECONDS: dict[Way, float] = {
    "as_is": 4,
    "rewritten": 4,
    "cudnn_attention": 4,
    "cuda_graph": 4,
    "compiled": 30,
    "autotuned": 90,
}
"""Who has less left does not begin."""
ON_CUDA_ONLY: tuple[Way, ...] = ("cudnn_attention", "cuda_graph")
MEASURED_S, TINY_MEASURED_S = 1.5, 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    """One figure to measure."""

    views: Views
    precision: str
    way: Way


def plans_of(case: Case) -> list[Plan]:
    """The figures of a network; where time runs out, the last ones are missing."""
    many, few = case.views
    return [
        Plan(many, "bf16", "rewritten"),
        Plan(many, "bf16", "cudnn_attention"),
        Plan(many, "bf16", "compiled"),
        Plan(few, "bf16", "cuda_graph"),
        Plan(few, "bf16", "rewritten"),
        Plan(many, "fp16", "rewritten"),
        Plan(few, "fp16", "cuda_graph"),
        Plan(many, "bf16", "as_is"),
        Plan(few, "bf16", "as_is"),
        Plan(many, "fp16", "compiled"),
    ]


def measure_case(section: Section, case: Case, plans: list[Plan]) -> None:
    """Measures figure after figure, and saves each: ``peaks``, ``runs``."""
    network = random_network(case.name, tiny=section.tiny, device=section.device)
    subject = _Subject(section, case, network, contract_for(case.name, network))
    section.save(title=case.title, peaks=subject.peaks, runs=[])
    for plan in plans:
        section.save(runs=[*section.found["runs"], subject.measure(plan)])


class _Subject:
    """A network on the card, and what its figures are held against."""

    def __init__(self, section: Section, case: Case, network: VideoNetwork, contract: Contract) -> None:
        self.section, self.case, self.network, self.contract = section, case, network, contract
        self.device = section.device
        ceilings = measure_ceilings(self.device, tiny=section.tiny)
        self.peaks: dict[str, float] = ceilings["tflops"]
        self._gbytes_per_s: float = ceilings["copy_gbytes_per_s"]
        self._work: dict[str, Work] = {}
        self._expected: dict[str, Tensor] = {}

    def measure(self, plan: Plan) -> dict[str, Any]:
        """One figure; whatever stops it is noted, and the next one has its turn."""
        name = {"views": plan.views.title, "precision": plan.precision, "way": plan.way}
        if plan.way in ON_CUDA_ONLY and self.device.type != "cuda":
            return name | {"skipped": "this takes a CUDA GPU"}
        least = LEAST_SECONDS[plan.way] if not self.section.tiny else 1.0
        if self.section.seconds_left < least:
            return name | {"skipped": f"less than {least:g} s of the section's time were left"}
        self.section.say(f"{self.case.title}, {plan.views.title}, {plan.precision}, {WAYS[plan.way]}")
        try:
            if plan.views.title not in self._work:
                self._work[plan.views.title] = work_of(self.case.name, plan.views, tiny=self.section.tiny)
            with torch.inference_mode():
                return name | self._run(plan)
        except Exception as exc:  # noqa: BLE001  compilers and drivers raise what they like
            return name | {"failed": f"{type(exc).__name__}: {_first_line(exc)}"}
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _run(self, plan: Plan) -> dict[str, Any]:
        units = random_units(self.contract, plan.views.num_units(self.network), self.device)
        encoder = lower(self.network, self.contract.normalisation, plan.precision, rewritten=plan.way != "as_is")
        pipeline = Pipeline(encoder, self.network, self.contract, plan.views)
        if plan.way in ("compiled", "autotuned"):
            compile_blocks(encoder, autotuned=plan.way == "autotuned", on_cuda=self.device.type == "cuda")
        call: Callable[[], object] = partial(pipeline, units)
        if plan.way == "cudnn_attention":
            pipeline.encoder = _by_cudnn(encoder)
        began = time.perf_counter()
        logits = pipeline.fit(units).cpu()
        first_s = time.perf_counter() - began
        if plan.way == "cuda_graph":
            replay = as_cuda_graph(pipeline, units)
            call, logits = replay, replay().cpu()
        measured = time_calls(call, self.device, seconds=TINY_MEASURED_S if self.section.tiny else MEASURED_S)
        found = {"ms": measured, "units_in_a_run": pipeline.chunk, **self._against(plan, measured["median"])}
        if plan.way in ("compiled", "autotuned"):
            found["first_call_s"] = round(first_s, 1)
        expected = self._expected_logits(plan.views, units)
        found["cosine_with_fp32"] = round(float(torch.cosine_similarity(logits, expected, dim=0)), 6)
        return found

    def _against(self, plan: Plan, milliseconds: float) -> dict[str, float]:
        """The rate, its part of the peak, and what the operations and the bytes would take at the least."""
        work, peak = self._work[plan.views.title], self.peaks[plan.precision]
        tflops = work.gflop / milliseconds
        return {
            "gflop": round(work.gflop, 3),
            "tflops": float(f"{tflops:.4g}"),
            "of_peak": float(f"{tflops / peak:.4g}"),
            "least_ms_by_operations": float(f"{work.gflop / peak:.4g}"),
            "gbytes": round(work.gbytes, 6),
            "least_ms_by_bytes": float(f"{1e3 * work.gbytes / self._gbytes_per_s:.4g}"),
            "videos_per_s": round(1e3 / milliseconds, 2),
        }

    def _expected_logits(self, views: Views, units: Tensor) -> Tensor:
        """At float32, eager, as it is: computed once."""
        if views.title not in self._expected:
            encoder = lower(self.network, self.contract.normalisation, "fp32", rewritten=False)
            self._expected[views.title] = Pipeline(encoder, self.network, self.contract, views).fit(units).cpu()
        return self._expected[views.title]


def _by_cudnn(encoder: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The encoder with cuDNN's attention where it has one; PyTorch prefers its own FlashAttention."""
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

    def encode(units: Tensor) -> Tensor:
        with sdpa_kernel(order, set_priority=True):
            return encoder(units)

    return encode


def _first_line(exc: Exception) -> str:
    return next((line.strip() for line in str(exc).splitlines() if line.strip()), "")[:300]
