"""The GPU benchmark's own check: the same code on the processor, with tiny networks. Needs no GPU."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_correctness
import gpu_report
import pytest
import torch
from gpu_correctness import Finding
from gpu_lowering import lower, patch_product
from gpu_networks import CASES, FAMILIES, Case, builder, contract_for, random_network, work_of
from gpu_pipeline import Pipeline, random_units
from torch.nn import functional

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def run_benchmark(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/gpu.py", "--out", str(out), *arguments]
    environment = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_every_section_runs_or_says_why_not(tmp_path: Path) -> None:
    out = tmp_path / "results" / "check"
    only = ["machine", "correctness", "vivit_b_16x2_fe_k400", "vtn_vit_b_k400", "vidtr_s_k400", "tensorrt", "autotuned"]
    ended = run_benchmark(out, "--device", "cpu", "--tiny", *[word for name in only for word in ("--only", name)])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads(out.with_suffix(".json").read_text())
    sections = results["sections"]
    assert set(sections) == set(only)
    assert sections["correctness"]["ok"] is True
    assert len(sections["correctness"]["networks"]) == len(FAMILIES)
    assert "skipped" in sections["tensorrt"]
    for name in only[2:5]:
        runs = sections[name]["runs"]
        measured = [run for run in runs if "ms" in run]
        assert not [run for run in runs if "failed" in run]
        assert {run["precision"] for run in measured} == {"bf16", "fp16"}
        assert all(run["cosine_with_fp32"] > 0.999 for run in measured)
        assert all(run["tflops"] > 0 for run in measured)
        assert all(run["least_ms_by_operations"] > run["least_ms_by_bytes"] > 0 for run in measured)
    # Nothing that was measured on a processor passes for a figure of a GPU.
    assert results["goals"] == []
    text = out.with_suffix(".md").read_text()
    assert "no GPU" in text
    assert "not figures" in text


@pytest.mark.needs_triton
def test_server_with_its_network_beside_it_answers_as_this_process_does(tmp_path: Path) -> None:
    ended = run_benchmark(tmp_path / "check", "--device", "cpu", "--tiny", "--only", "served")
    results = json.loads((tmp_path / "check.json").read_text())
    served = results["sections"]["served"]
    if "skipped" in served:
        pytest.skip(served["skipped"])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for way in served["ways"].values():
        assert way["cosine_with_this_process"] > 0.999
        assert way["protocols"]["10x3"]["views"] == 30


def test_machine_without_the_device_says_so_and_writes_results(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    ended = run_benchmark(tmp_path / "check", "--only", "machine")
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "check.json").read_text())["sections"]["machine"]
    assert "no CUDA GPU" in found["skipped"]


def test_run_whose_time_is_over_begins_nothing_more(tmp_path: Path) -> None:
    ended = run_benchmark(tmp_path / "check", "--device", "cpu", "--tiny", "--only", "machine", "--minutes", "0.1")
    assert ended.returncode == 0, ended.stderr
    assert "minutes of the run were over" in (tmp_path / "check.md").read_text()


@pytest.mark.parametrize("name", FAMILIES)
def test_rewritten_encoder_computes_the_same(name: str) -> None:
    network = random_network(name, tiny=True, device=CPU)
    contract = contract_for(name, network)
    units = random_units(contract, 3, CPU)
    with torch.inference_mode():
        expected = lower(network, contract.normalisation, "fp32", rewritten=False)(units)
        found = lower(network, contract.normalisation, "fp32", rewritten=True)(units)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("shape", [(2, 3, 32, 48), (2, 3, 4, 32, 48)])
def test_patch_product_is_the_convolution(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(4)
    kernel = (2, 16, 16)[5 - len(shape) :]
    pixels = torch.randn(shape, generator=generator)
    weight, bias = torch.randn(5, 3, *kernel, generator=generator), torch.randn(5, generator=generator)
    convolve: Any = functional.conv3d if len(kernel) == 3 else functional.conv2d
    expected = convolve(pixels, weight, bias, stride=kernel)
    torch.testing.assert_close(patch_product(pixels, weight, bias), expected, atol=5e-4, rtol=0)


def test_wrong_weight_is_found() -> None:
    name = "vivit_b_16x2_fe_k400"
    network = random_network(name, tiny=True, device=CPU)
    contract = contract_for(name, network)
    units = random_units(contract, gpu_correctness.VIEWS.num_units(network), CPU)
    with torch.inference_mode():
        encoder = lower(network, contract.normalisation, "fp32", rewritten=False)
        expected = Pipeline(encoder, network, contract, gpu_correctness.VIEWS)(units)
        wrong = random_network(name, tiny=True, device=CPU, seed=1)
        found = Pipeline(encoder, wrong, contract, gpu_correctness.VIEWS)(units)
    assert not all(finding.ok for finding in gpu_correctness.judge("fp32", found, expected, "fp32"))


@pytest.mark.parametrize("at_least", [True, False])
def test_nan_is_never_right(at_least: bool) -> None:
    assert not Finding(what="x", found=math.nan, budget=0.5, at_least=at_least).ok


@pytest.mark.parametrize(
    ("name", "gflop"), [("vivit_b_16x2_fe_k400", 569), ("vivit_b_16x2_k400", 903), ("vidtr_s_k400", 317)]
)
def test_work_of_one_view_is_the_known_one(name: str, gflop: float) -> None:
    case = next(case for case in CASES if case.name == name)
    assert work_of(name, case.views[1], tiny=False).gflop == pytest.approx(gflop, rel=0.003)


def test_work_grows_with_the_views() -> None:
    many, one = (work_of(CASES[0].name, views, tiny=True) for views in CASES[0].views)
    assert many.gflop == pytest.approx(30 * one.gflop)


def measured(milliseconds: float, of_peak: float) -> dict[str, Any]:
    times = {"median": milliseconds, "min": milliseconds, "max": milliseconds, "count": 1}
    return {
        "views": "30 views",
        "precision": "bf16",
        "way": "rewritten",
        "ms": times,
        "of_peak": of_peak,
        "tflops": 1.0,
    }


def test_goals_are_judged_by_the_best_way() -> None:
    runs = [
        measured(60, 0.4),
        measured(40, 0.55) | {"way": "compiled"},
        {"views": "30 views", "precision": "bf16", "skipped": ""},
    ]
    served = {"whole": {"protocols": {"10x3": {"ms": measured(120, 0)["ms"]}}}, "encoder": {"skipped": "no time"}}
    sections = {"vivit_b_16x2_fe_k400": {"runs": runs}, "served": {"ways": served}}
    goals = gpu_report.goals_of({"tiny": False, "device": "cuda", "sections": sections})
    assert [(goal["found"], goal["ok"]) for goal in goals] == [(0.55, True), (120, False)]


def test_views_of_other_lengths_have_their_own_units() -> None:
    network = random_network("vtn_vit_b_k400", tiny=True, device=CPU)
    whole, many = next(case for case in CASES if case.name == "vtn_vit_b_k400").views
    assert whole.num_units(network) == 250
    assert many.num_units(network) == 30 * 16


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("rewritten", [True, False])
def test_full_size_stays_on_its_device(case: Case, rewritten: bool) -> None:
    # PyTorch's meta device knows shapes only, and refuses tensors of another device as a card does.
    meta = torch.device("meta")
    with meta, torch.inference_mode():
        network = builder(case.name, tiny=False)().eval()
    contract = contract_for(case.name, network)
    encoder = lower(network, contract.normalisation, "bf16", rewritten=rewritten)
    for views in case.views:
        units = torch.empty(views.num_units(network), *contract.unit_shape, dtype=torch.uint8, device=meta)
        with torch.inference_mode():
            logits = Pipeline(encoder, network, contract, views)(units)
        assert (logits.device, logits.dtype, logits.shape) == (meta, torch.float32, (400,))
