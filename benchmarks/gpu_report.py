"""The GPU benchmark's results against what they should reach, and as tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

from report import Goal

__all__ = ["WAYS", "Way", "goals_of", "markdown"]

Results = dict[str, Any]

FE = "vivit_b_16x2_fe_k400"
Way = Literal["as_is", "rewritten", "cudnn_attention", "cuda_graph", "compiled", "autotuned"]

WAYS: dict[Way, str] = {
    "as_is": "eager",
    "rewritten": "eager, rewritten",
    "cudnn_attention": "rewritten, attention by cuDNN",
    "cuda_graph": "rewritten, CUDA graph",
    "compiled": "rewritten, torch.compile",
    "autotuned": "rewritten, torch.compile max-autotune",
}
"""How PyTorch computes an encoder; `gpu_lowering` has what is rewritten."""

OWN_TABLES = ("machine", "correctness", "served")


def goals_of(results: Results) -> list[dict[str, Any]]:
    """The two goals, where this run has their figures; tiny networks and processors have none."""
    if results["tiny"] or not results["device"].startswith("cuda"):
        return []
    return [asdict(goal) | {"ok": goal.ok} for goal in _goals(results["sections"])]


def _goals(sections: Results) -> Iterator[Goal]:
    runs = [*sections.get(FE, {}).get("runs", []), *sections.get("autotuned", {}).get("runs", [])]
    parts = [
        run["of_peak"] for run in runs if run["views"] == "30 views" and run["precision"] == "bf16" and "ms" in run
    ]
    if parts:
        yield Goal("ViViT-B/16x2 FE, 30 views, bf16: part of the measured matrix peak", "at least", 0.5, max(parts))
    ways = sections.get("served", {}).get("ways", {})
    times = [way["protocols"]["10x3"]["ms"]["median"] for way in ways.values() if "protocols" in way]
    if times:
        yield Goal("ViViT-B/16x2 FE, 30 views through Triton: milliseconds", "below", 100, min(times))


def markdown(results: Results) -> str:
    """The run as tables."""
    sections = results["sections"]
    parts = [f"# {sections.get('machine', {}).get('card', 'A machine that was not described')}", _heading(results)]
    if results["goals"]:
        parts.append(_goal_table(results["goals"]))
    if "networks" in (found := sections.get("correctness", {})):
        parts += ["## What the card computes", _correctness(found)]
    for name, found in sections.items():
        if name not in OWN_TABLES and "runs" in found:
            parts += [f"## {found['title']}{_SUFFIX.get(name, '')}", _runs(found)]
    if "ways" in (found := sections.get("served", {})):
        parts += ["## Through Triton, from the bytes of a video to the answer", _served(found)]
    if stopped := list(_stopped(sections)):
        parts += ["## What is missing", "\n".join(stopped)]
    return "\n\n".join(parts) + "\n"


_SUFFIX = {"onnxruntime": ", ONNX Runtime", "tensorrt": ", TensorRT", "autotuned": ", autotuned"}


def _heading(results: Results) -> str:
    machine = results["sections"].get("machine", {})
    lines = [f"{results['date']}, {results['minutes']:g} minutes."]
    if results["tiny"]:
        lines.append("**Tiny networks: a check of the benchmark, not figures.**")
    known = {
        "driver_version": "driver",
        "cuda": "CUDA",
        "memory_gib": "GiB of memory",
        "clocks.max.sm": "highest clock",
    }
    lines += [f"{title} {machine[key]}." for key, title in known.items() if machine.get(key)]
    lines.append(", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items()) + ".")
    if "tflops" in machine:
        peaks = ", ".join(f"{name} {value:g} TFLOP/s" for name, value in machine["tflops"].items())
        lines.append(
            f"\n\nMeasured ceilings: products of random matrices of side {machine['matrix_side']} {peaks}; "
            f"copies {machine['copy_gbytes_per_s']:g} GB/s, read and written."
        )
    return " ".join(lines)


def _goal_table(goals: list[Results]) -> str:
    lines = ["| figure | should reach | found | |", "| --- | --- | --- | --- |"]
    for goal in goals:
        verdict = "ok" if goal["ok"] else "**missed**"
        lines.append(f"| {goal['figure']} | {goal['kind']} {goal['bound']:g} | {goal['found']:g} | {verdict} |")
    return "\n".join(lines)


def _correctness(found: Results) -> str:
    lines = ["| network | comparisons | over budget |", "| --- | --- | --- |"]
    for name, network in found["networks"].items():
        findings = network.get("findings", [])
        wrong = [f"{finding['what']}: {finding['found']:g}" for finding in findings if not finding["ok"]]
        lines.append(f"| {name} | {len(findings)} | {'; '.join(wrong) or network.get('skipped', 'none')} |")
    return "\n".join(lines)


def _runs(found: Results) -> str:
    lines = [
        "| views | precision | way | ms | min to max | TFLOP/s | part of peak | least ms: operations, bytes | "
        "cosine with fp32 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in found["runs"]:
        name = f"| {run['views']} | {run['precision']} | {WAYS[run['way']] if 'way' in run else ''} |"
        if "ms" not in run:
            lines.append(f"{name} {run.get('skipped') or run.get('failed')} | | | | | |")
            continue
        ms = run["ms"]
        least = f"{run['least_ms_by_operations']:.3g}, {run['least_ms_by_bytes']:.3g}" if "gbytes" in run else ""
        lines.append(
            f"{name} {ms['median']:.3g} | {ms['min']:.3g} to {ms['max']:.3g} | {run['tflops']:.4g} | "
            f"{run['of_peak']:.2f} | {least} | {run.get('cosine_with_fp32', '')} |"
        )
    peaks = ", ".join(f"{name} {value:g} TFLOP/s" for name, value in found["peaks"].items())
    return "\n".join([*lines, "", f"Peaks, measured just before: {peaks}."])


def _served(found: Results) -> str:
    lines = ["| | protocol | ms | min to max | milliseconds by step |", "| --- | --- | --- | --- | --- |"]
    for way in found["ways"].values():
        for protocol, one in way.get("protocols", {}).items():
            ms = one["ms"]
            split = ", ".join(f"{step} {value:g}" for step, value in one["split_ms"].items())
            title = f"| {way['title']} | {protocol} |"
            lines.append(f"{title} {ms['median']:.3g} | {ms['min']:.3g} to {ms['max']:.3g} | {split} |")
    return "\n".join(lines)


def _stopped(sections: Results) -> Iterator[str]:
    for name, found in sections.items():
        for kind in ("skipped", "failed", "cut_off"):
            if kind in found:
                yield f"- {name}: {kind.replace('_', ' ')}: {found[kind]}"
