"""ONNX Runtime's CUDA provider on the graphs for GPUs, where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gpu_section import Section

pytestmark = pytest.mark.needs_gpu


def test_onnxruntime_runs_the_graphs_on_the_card(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDAExecutionProvider: onnxruntime-gpu is needed")
    from gpu_runtimes import measure_onnxruntime

    section = Section(device=torch.device("cuda"), tiny=True, seconds=120, part=tmp_path / "part.json")
    measure_onnxruntime(section)
    assert {run["precision"] for run in section.found["runs"]} == {"bf16", "fp16"}
    assert all("ms" in run for run in section.found["runs"])
