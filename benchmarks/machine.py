"""The machine: its name, its versions, and how fast it multiplies matrices at this moment."""

from __future__ import annotations

import platform
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from timing import spread

from tubelet.engines.base import num_cores, processor_name

__all__ = ["GemmPeak", "describe", "short_name", "versions"]

SHAPES = ((3136, 768, 3072), (3136, 3072, 768), (4096, 4096, 4096))
"""Rows, depth and columns: the two linear layers of a ViT-B block on a clip, and a square that knows no network."""
TRIES = 3
PACKAGES = ("torch", "transformers", "onnxruntime", "openvino", "nvidia-pytriton", "numpy", "av")


class GemmPeak:
    """Matrix products by torch (oneDNN, MKL) on all cores: what engines are held against."""

    def __init__(self) -> None:
        self.gflops: dict[str, list[float]] = {"fp32": [], "bf16": []}
        """The fastest of several products, once for each call of `measure`."""
        self._dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
        ones = {m * k for m, k, _ in SHAPES} | {k * n for _, k, n in SHAPES}
        self._numbers = torch.randn(max(ones))

    def measure(self) -> None:
        """Looks once more; about a second."""
        torch.set_num_threads(num_cores())
        for name, dtype in self._dtypes.items():
            numbers = self._numbers.to(dtype)
            self.gflops[name].append(max(_gflops(numbers, shape) for shape in SHAPES for _ in range(TRIES)))

    def best(self, precision: str) -> float:
        """GFLOP/s, the most that was seen."""
        return max(self.gflops[precision])

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {name: spread(values, digits=1) for name, values in self.gflops.items()}


def describe() -> str:
    """Processor, cores, memory and Python."""
    memory = Path("/proc/meminfo").read_text().split()[1]
    return f"{processor_name()}, {num_cores()} cores, {int(memory) >> 20} GiB, Python {platform.python_version()}"


def short_name() -> str:
    """For a file, such as ``amd_epyc_2_cores``."""
    return "_".join(re.findall(r"[a-z0-9]+", f"{processor_name()} {num_cores()} cores".lower()))


def versions() -> dict[str, str]:
    """Of the packages that the figures depend on."""
    return {package: version(package) for package in PACKAGES}


def _gflops(numbers: torch.Tensor, shape: tuple[int, int, int]) -> float:
    m, k, n = shape
    a, b = numbers[: m * k].view(m, k), numbers[: n * k].view(n, k)
    began = time.perf_counter()
    torch.nn.functional.linear(a, b)
    return 2e-9 * m * k * n / (time.perf_counter() - began)
