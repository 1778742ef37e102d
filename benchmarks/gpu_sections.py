"""The sections of the GPU benchmark, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gpu_correctness
import torch
from gpu_machine import describe_card, measure_ceilings, versions
from gpu_networks import CASES, Case
from gpu_pipeline import full_precision
from gpu_runtimes import measure_onnxruntime, measure_tensorrt
from gpu_section import Section, SkippedError
from gpu_served import measure_served
from gpu_speed import Plan, measure_case, plans_of

__all__ = ["SECTIONS", "run"]


def run(name: str, section: Section) -> None:
    """Runs a section in this process.

    Raises:
        SkippedError: it cannot run on this machine.
    """
    if section.device.type == "cuda" and not torch.cuda.is_available():
        raise SkippedError("this machine has no CUDA GPU, or PyTorch none of its kind")
    if section.device.type == "cuda":
        torch.cuda.set_device(section.device.index or 0)
    full_precision()
    if section.tiny:
        torch.set_num_threads(1)  # more would wait for each other
    SECTIONS[name](section)


def _machine(section: Section) -> None:
    section.save(**describe_card(section.device), versions=versions())
    section.save(**measure_ceilings(section.device, tiny=section.tiny))


def _correctness(section: Section) -> None:
    section.save(networks={})
    for tiny in (True,) if section.tiny else (True, False):
        for name in gpu_correctness.names(tiny=tiny):
            title = f"{name}, {'tiny' if tiny else 'full size'}"
            if section.seconds_left < 1:
                section.save(networks=section.found["networks"] | {title: {"skipped": "no time was left"}})
                continue
            section.say(title)
            findings = [finding.to_json() for finding in gpu_correctness.check_network(name, section.device, tiny=tiny)]
            section.save(networks=section.found["networks"] | {title: {"findings": findings}})
    compared = [network["findings"] for network in section.found["networks"].values() if "findings" in network]
    section.save(ok=all(finding["ok"] for findings in compared for finding in findings))


def _network(case: Case, section: Section) -> None:
    # Compiling takes longer than everything else; one network is enough to see that it works.
    plans = [plan for plan in plans_of(case) if not section.tiny or case is CASES[0] or plan.way != "compiled"]
    measure_case(section, case, plans)


def _autotuned(section: Section) -> None:
    if section.device.type != "cuda":
        raise SkippedError("products are written anew for CUDA GPUs")
    measure_case(section, CASES[0], [Plan(CASES[0].views[0], "bf16", "autotuned")])


SECTIONS: dict[str, Callable[[Section], None]] = {
    "machine": _machine,
    "correctness": _correctness,
    "served": measure_served,
    "onnxruntime": measure_onnxruntime,
    "tensorrt": measure_tensorrt,
    "autotuned": _autotuned,
    **{case.name: partial(_network, case) for case in CASES},
}
