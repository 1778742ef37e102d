"""What a repository of target ``gpu`` needs of Triton and of the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tubelet.engines.gpu import find_gpu
from tubelet.server.triton import BACKENDS, Pools, Triton
from tubelet.spec.errors import MachineError
from tubelet.spec.repository import ENGINE_FOLDER, RepositoryIndex

__all__ = ["IMAGE", "absent_backends", "check_card", "installed_tensorrt", "memory_pools"]

IMAGE = "nvcr.io/nvidia/tritonserver:26.08-py3"
"""The Triton that target ``gpu`` is written for."""

GPU_DEVICE = Path("/dev/nvidia0")


def check_card(triton: Triton, index: RepositoryIndex, environment: Mapping[str, str] = os.environ) -> None:
    """Makes sure that Triton and this machine have what a repository of target ``gpu`` needs.

    Raises:
        MachineError: ``missing``: a Triton with the backends, a card, the card or the TensorRT that plans were built
            for, or a place for engines.
    """
    if triton.is_wheel:
        raise MachineError(
            "missing",
            "this repository needs a card, and the wheel's Triton has the Python backend only; serve it in the "
            f"container (docker build --target gpu), whose Triton is {IMAGE}",
        )
    engines = {model.running.engine for model in index.models}
    if absent := absent_backends({"python", "onnxruntime"} | ({"tensorrt"} & engines)):
        raise MachineError("missing", f"this Triton has no backend {' and '.join(absent)}; take {IMAGE}, which has all")
    card, tensorrt = _card_name(), installed_tensorrt(environment)
    for model in index.models:
        for what, needed, found in (("by TensorRT", model.tensorrt, tensorrt), ("for", model.gpu, card)):
            if needed is not None and found is not None and needed != found:
                raise MachineError(
                    "missing",
                    f"the plans of {model.name} were built {what} {needed}, but {found} is here; build them here: "
                    f"tubelet engine BUNDLE --precision {model.running.precision}, and write the repository again",
                )
    if "onnxruntime_tensorrt" in engines and not os.access(ENGINE_FOLDER, os.W_OK | os.X_OK):
        raise MachineError(
            "missing",
            f"onnxruntime_tensorrt keeps its engines in {ENGINE_FOLDER}, which is not there or cannot be written; "
            "mount a volume there",
        )


def absent_backends(names: set[str]) -> list[str]:
    """Those of Triton's backends that are not there, sorted; none of the wheel's is where this looks."""
    return sorted(name for name in names if not (BACKENDS / name).is_dir())


def installed_tensorrt(environment: Mapping[str, str] = os.environ) -> str | None:
    """The TensorRT version of NVIDIA's image, as the image's environment says it; None: it does not."""
    found = environment.get("NV_TENSORRT_VERSION") or environment.get("TRT_VERSION") or ""
    return found.partition("+")[0].partition("-")[0] or None


def memory_pools(index: RepositoryIndex) -> Pools | None:
    """The memory that Triton sets aside for all models together; None: nothing goes to a card."""
    if index.target == "cpu":
        return None
    return Pools(
        device_bytes=sum(model.device_pool_bytes for model in index.models),
        pinned_bytes=sum(model.pinned_pool_bytes for model in index.models),
    )


def _card_name() -> str | None:
    """None: a card is there, but no nvidia-smi to ask for its name (the driver's part ``utility``).

    Raises:
        MachineError: ``missing``: there is no card.
    """
    try:
        return find_gpu().name
    except MachineError:
        if GPU_DEVICE.exists():
            return None
        raise
