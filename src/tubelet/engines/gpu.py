"""What this machine has for target ``gpu``: the graphics card, TensorRT."""

from __future__ import annotations

import importlib
import os
import subprocess

from tubelet.spec.errors import MachineError
from tubelet.spec.plan import Gpu

__all__ = ["find_gpu", "find_tensorrt"]

_TIMEOUT_S = 30.0


def find_gpu() -> Gpu:
    """The card that CUDA takes when nobody chooses: the first of ``CUDA_VISIBLE_DEVICES``, or of all.

    Raises:
        MachineError: ``missing``: there is none, or no driver for it.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    query = ["nvidia-smi", f"--id={first}", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        name, compute_capability, driver = found.stdout.splitlines()[0].split(", ")
    except (OSError, subprocess.SubprocessError, IndexError, ValueError) as exc:
        raise MachineError(
            "missing",
            "no NVIDIA GPU is here: nvidia-smi shows none; run this on the machine that will serve, in a container "
            "with docker run --gpus all",
        ) from exc
    return Gpu(name=name, compute_capability=compute_capability, driver=driver)


def find_tensorrt() -> str:
    """The version of TensorRT's Python package, as in ``11.2.1.2``.

    Raises:
        MachineError: ``missing``: it is not installed, cannot be loaded, or is too old.
    """
    try:
        version: str = importlib.import_module("tensorrt").__version__
    except ImportError as exc:
        raise MachineError(
            "missing",
            f"no TensorRT ({exc}); take the container's stage export (docker build --target export), or pip install "
            "tensorrt-cu13==11.2.1.2 from NVIDIA's own package index",
        ) from exc
    if not version.startswith(("10.16.", "11.")):
        raise MachineError("missing", f"TensorRT {version} is here; plans are built and run by TensorRT 11 or 10.16")
    return version
