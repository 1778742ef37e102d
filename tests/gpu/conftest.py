"""Tests marked ``needs_gpu`` are skipped where there is no GPU, with their number and the reason; see pytest.ini.

A machine that is there for its GPU sets ``FAIL_WITHOUT_GPU=1``: the tests then fail where none is found, and
cannot be skipped unseen.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
if BENCHMARKS not in sys.path:
    sys.path.append(BENCHMARKS)


NEED_MORE = {"test_tensorrt_gpu.py": ("av", "cv2", "onnx")}
"""Files that cannot even be read without these packages."""

MISSING = {
    file: missing
    for file, packages in NEED_MORE.items()
    if (missing := [package for package in packages if importlib.util.find_spec(package) is None])
}
collect_ignore = list(MISSING)


def pytest_report_header() -> list[str]:
    return [f"{file} is left out, not installed: {', '.join(packages)}" for file, packages in MISSING.items()]


def _why_no_gpu() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    return None if torch.cuda.is_available() else "no CUDA GPU: torch.cuda.is_available() is False"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if "needs_gpu" in item.keywords]
    reason = _why_no_gpu() if marked else None
    if reason is None:
        return
    if os.environ.get("FAIL_WITHOUT_GPU") == "1":
        raise pytest.UsageError(f"FAIL_WITHOUT_GPU is 1, and {len(marked)} tests need a GPU: {reason}")
    for item in marked:
        item.add_marker(pytest.mark.skip(reason=reason))
