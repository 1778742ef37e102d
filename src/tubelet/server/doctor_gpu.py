"""The doctor's findings for target ``gpu``: the card, Triton's backends, TensorRT and the plans at hand."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tubelet.server.card import IMAGE, absent_backends, installed_tensorrt
from tubelet.server.findings import Finding, installed_version
from tubelet.server.triton import BACKENDS
from tubelet.spec.errors import TubeletError
from tubelet.spec.repository import RepositoryIndex

__all__ = ["examine_gpu", "judge_backends", "judge_tensorrt"]

DEFAULT_REPOSITORY = Path("model_repository")
_GPU_BACKENDS = ("python", "onnxruntime", "tensorrt")


def examine_gpu() -> tuple[Finding, ...]:
    """Looks at what target ``gpu`` needs; serving on processors does without any of it."""
    tensorrt = installed_tensorrt() or installed_version("tensorrt")
    return (
        _find_gpu(),
        judge_backends(absent_backends(set(_GPU_BACKENDS)), is_there=BACKENDS.is_dir()),
        judge_tensorrt(tensorrt, _needed_tensorrt(DEFAULT_REPOSITORY)),
    )


def judge_backends(absent: Sequence[str], *, is_there: bool) -> Finding:
    """Judges what NVIDIA's Triton has beside the Python backend; ``is_there``: the folder of its backends."""
    ok = is_there and not absent
    found = f"{BACKENDS} without {', '.join(absent)}" if is_there else "none; target cpu serves without them"
    return Finding(
        name="Triton's GPU backends",
        ok=ok,
        is_needed=False,
        detail=", ".join(_GPU_BACKENDS) if ok else found,
        remedy="" if ok else f"for target gpu: the image {IMAGE}, or ours on it (docker build --target gpu)",
    )


def judge_tensorrt(found: str | None, needed: frozenset[str]) -> Finding:
    """Judges the version of TensorRT; None: there is none. ``needed``: those that plans at hand were built by."""
    fits = found is not None and needed <= {found}
    detail = found or "not installed; target cpu serves without it"
    if found is not None and not fits:
        detail = f"{found}, but the plans in {DEFAULT_REPOSITORY} were built by {', '.join(sorted(needed))}"
    remedy = "for target gpu: use the image of NVIDIA's Triton, which has it"
    if found is not None:
        remedy = "build the plans here: tubelet engine, then tubelet repository"
    return Finding(name="TensorRT", ok=fits, is_needed=False, detail=detail, remedy="" if fits else remedy)


def _find_gpu() -> Finding:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        answer = ""
    gpus = "; ".join(answer.strip().splitlines())
    return Finding(
        name="NVIDIA GPU",
        ok=bool(gpus),
        is_needed=False,
        detail=gpus or "none; target cpu serves without one",
        remedy="" if gpus else "for target gpu: a GPU and its driver, and docker run --gpus all",
    )


def _needed_tensorrt(repository: Path) -> frozenset[str]:
    try:
        models = RepositoryIndex.load(repository).models
    except TubeletError:
        return frozenset()
    return frozenset(model.tensorrt for model in models if model.tensorrt is not None)
