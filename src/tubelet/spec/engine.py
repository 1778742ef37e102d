"""What multiplies, how precisely, and for whom: the words for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "DEFAULT_RUNNING",
    "PLAIN",
    "SERVED_BY",
    "Arithmetic",
    "EngineName",
    "Mode",
    "Precision",
    "Running",
    "Target",
    "check_arithmetic",
    "graph_file",
    "plan_file",
    "target_of",
]

Target = Literal["cpu", "gpu"]
"""Where the steps after the decoder run."""

EngineName = Literal[
    "openvino", "onnxruntime", "tensorrt", "onnxruntime_tensorrt", "onnxruntime_cuda", "onnxruntime_host"
]
"""On processors ``openvino``, the faster one, and ``onnxruntime``, the portable one.

On GPUs ``tensorrt`` runs a plan built beforehand; ``onnxruntime_tensorrt`` and ``onnxruntime_cuda`` are ONNX Runtime's
execution providers, on the graph that a plan is built from; ``onnxruntime_host`` computes that graph on the processor,
to say what its conversion costs where no GPU is, and serves nobody.
"""

Precision = Literal["fp32", "fp16", "bf16", "fp8", "int8"]
"""Of the encoder, where the time goes; the temporal stage stays fp32. On processors ``bf16`` is the engine's own doing,
with the same graph, and ``int8`` is another graph, calibrated on clips. On GPUs each but fp32 is a graph of its own."""

Mode = Literal["latency", "throughput"]
"""``latency``: the whole machine works on one batch; ``throughput``: several batches share it."""

Arithmetic = tuple[EngineName, Precision]
"""What `tubelet verify` judges."""

PLAIN: tuple[Arithmetic, ...] = (("openvino", "fp32"), ("onnxruntime", "fp32"))
"""What every bundle is verified for when it is built: it takes no videos."""

SERVED_BY: dict[Target, tuple[EngineName, ...]] = {
    "cpu": ("openvino", "onnxruntime"),
    "gpu": ("tensorrt", "onnxruntime_tensorrt", "onnxruntime_cuda"),
}
"""The engines that serve on a target; the first is the default."""

_PRECISIONS: dict[EngineName, tuple[Precision, ...]] = {
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32", "int8"),
    "tensorrt": ("fp32", "fp16", "bf16", "fp8", "int8"),
    "onnxruntime_tensorrt": ("fp32", "fp16", "bf16", "fp8", "int8"),
    # It would compute eight bits in floating point, with the cost of both.
    "onnxruntime_cuda": ("fp32", "fp16", "bf16"),
    "onnxruntime_host": ("fp32", "fp16", "bf16", "fp8", "int8"),
}


def check_arithmetic(engine: EngineName, precision: Precision) -> None:
    """Makes sure that an engine has a precision at all.

    Raises:
        ValueError: it has not, on any machine.
    """
    if precision not in (known := _PRECISIONS[engine]):
        raise ValueError(f"{engine} has {', '.join(known)}, not {precision}; take another precision or engine")


def target_of(engine: EngineName) -> Target:
    """The target whose graphs an engine runs."""
    return "cpu" if engine in SERVED_BY["cpu"] else "gpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """How a model's encoder runs."""

    engine: EngineName
    precision: Precision
    mode: Mode

    def __post_init__(self) -> None:
        check_arithmetic(self.engine, self.precision)

    @property
    def target(self) -> Target:
        """Where."""
        return target_of(self.engine)


DEFAULT_RUNNING = Running(engine="openvino", precision="fp32", mode="latency")
"""What every bundle was verified for, on every processor."""


def graph_file(step: str, precision: Precision = "fp32", target: Target = "cpu") -> str:
    """Path of a step's graph in a bundle; its last part is the graph's name in a repository."""
    if step != "encoder" or precision == "fp32":
        return f"{step}.onnx"
    if target == "gpu":
        return f"gpu/encoder.{precision}.onnx"
    return "encoder.int8.onnx" if precision == "int8" else "encoder.onnx"


def plan_file(step: str, precision: Precision) -> str:
    """Path of a step's TensorRT plan in a bundle; beside it, ``<plan>.json`` says what it was built from, and where."""
    return f"gpu/encoder.{precision}.plan" if step == "encoder" else f"gpu/{step}.plan"
