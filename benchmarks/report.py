"""Figures against what they must reach, and the tables that people read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["goals_of", "markdown"]

Results = dict[str, Any]

COLUMNS = {
    "hf_sdpa_fp32": "Hugging Face fp32 (SDPA)",
    "hf_sdpa_bf16": "bf16 (SDPA)",
    "hf_eager_fp32": "fp32 (eager attention)",
    "hf_eager_bf16": "bf16 (eager attention)",
    "torch_fp32": "torch eager fp32",
    "torch_bf16": "torch eager bf16",
    "onnxruntime_fp32": "ONNX Runtime fp32",
    "openvino_fp32": "OpenVINO fp32",
    "openvino_bf16": "OpenVINO bf16",
    "openvino_int8": "OpenVINO int8",
    "direct_bf16": "decode + OpenVINO bf16",
    "triton_bf16": "through Triton, bf16",
}
MODEL_1, FE, VTN = "vivit_b_16x2_k400_1x1", "vivit_b_16x2_fe_k400_1x1", "vtn_vit_b_k400_1x1"


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure that must be reached."""

    figure: str
    kind: Literal["at least", "at most", "below"]
    bound: float
    found: float

    @property
    def ok(self) -> bool:
        if self.kind == "at least":
            return self.found >= self.bound
        return self.found < self.bound if self.kind == "below" else self.found <= self.bound


def goals_of(results: Results) -> list[dict[str, Any]]:
    """Every goal of which this run has the figures."""
    goals = [*_view_goals(results.get("views", {})), *_sharing_goals(results), *_decoding_goals(results)]
    return [asdict(goal) | {"ok": goal.ok} for goal in goals]


def _view_goals(views: Results) -> Iterator[Goal]:
    if MODEL_1 in views:
        seconds = {name: times["median"] for name, times in views[MODEL_1]["seconds"].items()}
        for attention in ("eager", "sdpa"):
            for precision, bound in (("fp32", 5.5), ("bf16", 2.8)):
                figure = (
                    f"Model 1 through Triton, bf16: times faster than Hugging Face {precision}, {attention} attention"
                )
                found = seconds[f"hf_{attention}_{precision}"] / seconds["triton_bf16"]
                yield Goal(figure, "at least", bound, round(found, 2))
    for key, title, bound in ((FE, "FE", 0.80), (MODEL_1, "Model 1", 0.75)):
        if key in views:
            found = views[key]["of_peak"]["triton_bf16"]
            yield Goal(f"{title} through Triton, bf16: part of the bf16 GEMM peak", "at least", bound, found)
    for view in views.values():
        figure = f"{view['title']}: end to end against decode + engine called directly"
        yield Goal(figure, "at most", 1.05, view["triton_to_direct"])


def _sharing_goals(results: Results) -> Iterator[Goal]:
    if found := results.get("against_single_views"):
        name = f"FE, {found['protocol']} in one request"
        yield Goal(f"{name} against as many requests of one view", "below", 1.0, found["ratio"])
        yield Goal(f"{name}: videos decoded", "at most", 1, found["videos_decoded"])
    if found := results.get("against_unshared_units"):
        figure = f"VTN, {found['protocol']} against {found['units_wanted']} single-frame encodes"
        yield Goal(figure, "at most", round(found["distinct_to_wanted"] + 0.03, 4), found["ratio"])


def _decoding_goals(results: Results) -> Iterator[Goal]:
    if found := results.get("decoding"):
        for case, bound_mb in (("10x3 of 10 s", 600), ("full of 2 h", 400)):
            megabytes = found["peak"][case]["peak_mib"] * 1.048576
            yield Goal(f"peak memory of the sample step, {case} of 1080p, MB", "at most", bound_mb, round(megabytes))
        for kind, view in found["one_view"].items():
            figure = f"decode of one centre view of 10 s of 1080p against all frames to RGB, {kind} groups of pictures"
            yield Goal(figure, "at most", 0.6, view["ratio"])


def markdown(results: Results) -> str:
    """The run as tables."""
    parts = [f"# {results['machine']}", _heading(results), _goal_table(results["goals"])]
    if views := results["views"]:
        parts += ["## One view", *(_view_table(view) for view in views.values())]
    if sharing := list(_sharing_lines(results)):
        parts += ["## Many views in one request", "\n".join(sharing)]
    if demo := results.get("demo"):
        parts += ["## The demo model", _demo_table(demo)]
    return "\n\n".join(parts) + "\n"


def _heading(results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    peaks = ", ".join(
        f"{name} {peak['max']:.0f} GFLOP/s (least {peak['min']:.0f})" for name, peak in results["gemm_gflops"].items()
    )
    return f"{results['date']}, {results['minutes']} minutes. {versions}.\n\nGEMM peak during the run: {peaks}."


def _goal_table(goals: list[dict[str, Any]]) -> str:
    lines = ["| figure | must reach | found | |", "| --- | --- | --- | --- |"]
    for goal in goals:
        verdict = "ok" if goal["ok"] else "**missed**"
        lines.append(f"| {goal['figure']} | {goal['kind']} {goal['bound']:g} | {goal['found']:g} | {verdict} |")
    return "\n".join(lines)


def _view_table(view: Results) -> str:
    peaks = ", ".join(f"{name} {peak['max']:.0f}" for name, peak in view["gemm_gflops"].items())
    split = ", ".join(f"{step} {value:g}" for step, value in view["triton_split_ms"].items())
    head = f"### {view['title']} ({view['protocol']}, {view['gflop']:g} GFLOP; GEMM {peaks} GFLOP/s)"
    lines = ["| | median s | min to max | part of peak |", "| --- | --- | --- | --- |"]
    for name, title in COLUMNS.items():
        if name in view["seconds"]:
            times, part = view["seconds"][name], view["of_peak"][name]
            lines.append(f"| {title} | {times['median']:.3f} | {times['min']:.3f} to {times['max']:.3f} | {part:.2f} |")
    return "\n".join([head, "", *lines, "", f"Through Triton, milliseconds: {split}."])


def _sharing_lines(results: Results) -> Iterator[str]:
    for key, title, other in (
        ("against_single_views", "ViViT-B/16x2 FE", "single_view"),
        ("against_unshared_units", "VTN ViT-B", "unshared"),
    ):
        if found := results.get(key):
            seconds = {name: times["median"] for name, times in found["seconds"].items()}
            yield (
                f"- {title}, {found['protocol']}: {seconds['together']:.2f} s, {found['units_encoded']} of "
                f"{found['units_wanted']} units encoded; {other.replace('_', ' ')} {seconds[other]:.2f} s"
            )


def _demo_table(demo: Results) -> str:
    latency, split = demo["latency_ms"], demo["latency_split_ms"]
    lines = [
        f"Ready after {demo['seconds_to_ready']:g} s. One view, one caller: {latency['median']:g} ms, "
        f"p95 {latency['p95']:g} ms, in this process {demo['direct_ms']['median']:g} ms.",
        "",
        "Milliseconds: " + ", ".join(f"{step} {value:g}" for step, value in split.items()) + ".",
        "",
        "| protocol | callers | clips a second | units in a run of the encoder |",
        "| --- | --- | --- | --- |",
    ]
    for protocol, by_callers in demo["throughput"].items():
        for callers, rate in by_callers.items():
            count = callers.removesuffix("_callers")
            lines.append(f"| {protocol} | {count} | {rate['clips_per_second']:g} | {rate['units_per_execution']:g} |")
    lost = ", ".join(f"{name} {seconds:g}" for name, seconds in demo["seconds_from_kill_to_next_answer"].items())
    return "\n".join([*lines, "", f"Seconds from a kill to the next answer: {lost}."])
