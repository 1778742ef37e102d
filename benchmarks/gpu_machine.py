"""The card: its name, its clocks, and the two ceilings that everything is held against, measured."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from gpu_pipeline import time_calls

__all__ = ["describe_card", "measure_ceilings", "versions"]

PACKAGES = ("torch", "triton", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "nvidia-pytriton", "av")
QUERY = (
    "driver_version",
    "memory.total",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.limit",
    "temperature.gpu",
)
SIDE, TINY_SIDE = 8192, 64
COPY_BYTES, TINY_COPY_BYTES = 4 << 30, 1 << 20


def describe_card(device: torch.device) -> dict[str, Any]:
    """Name, memory, driver and clocks; of a processor only what it is."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "cuda": torch.version.cuda,
    }
    if device.type != "cuda":
        return {"card": f"no GPU, the processor ({platform.machine()})"} | found
    properties = torch.cuda.get_device_properties(device)
    return {
        "card": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cudnn": torch.backends.cudnn.version(),
        **found,
        **_nvidia_smi(),
    }


def versions() -> dict[str, str]:
    """Of the packages that figures depend on; those that are not installed are left out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def measure_ceilings(device: torch.device, *, tiny: bool) -> dict[str, Any]:
    """TFLOP/s of a square matrix product of random numbers, and GB/s of a copy within the card's memory.

    The copy's bytes count twice: they are read and written.
    """
    side = TINY_SIDE if tiny else SIDE
    products = {
        name: _product_tflops(side, dtype, device, seconds=0.01 if tiny else 1.0) for name, dtype in _DTYPES.items()
    }
    source = torch.empty(TINY_COPY_BYTES if tiny else _copy_bytes(device), dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    copied = time_calls(lambda: target.copy_(source), device, seconds=0.01 if tiny else 0.5)
    return {
        "matrix_side": side,
        "tflops": products,
        "copy_gbytes_per_s": round(2e-6 * source.numel() / copied["median"], 1),
        "copy_bytes": source.numel(),
        "clocks_after": _nvidia_smi() if device.type == "cuda" else {},
    }


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def _product_tflops(side: int, dtype: torch.dtype, device: torch.device, *, seconds: float) -> float:
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    found = time_calls(lambda: a @ b, device, seconds=seconds)
    return float(f"{2e-9 * side**3 / found['median']:.5g}")


def _copy_bytes(device: torch.device) -> int:
    """A tenth of what is free, on small cards."""
    return min(COPY_BYTES, torch.cuda.mem_get_info(device)[0] // 10)


def _nvidia_smi() -> dict[str, str]:
    """What the driver says of the first card that this process may use; nothing where the tool is not there."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(QUERY, (value.strip() for value in answer.stdout.split(",")), strict=False))
