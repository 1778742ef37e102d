"""The machine that a load test runs on, for those who read its figures elsewhere."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import psutil

from tubelet.engines.base import num_cores, processor_name
from tubelet.loadtest.measured import Machine

__all__ = ["describe_machine"]

_PACKAGES = ("grpcio", "tritonclient", "nvidia-pytriton", "onnxruntime", "openvino", "numpy", "av")


def describe_machine() -> Machine:
    """What stands in the result."""
    return Machine(
        processor=processor_name(),
        cores=num_cores(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions={package: found for package in _PACKAGES if (found := _version(package)) is not None},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
