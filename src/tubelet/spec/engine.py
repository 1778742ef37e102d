"""What multiplies, how precisely, and for whom: the words for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "DEFAULT_RUNNING",
    "PLAIN",
    "Arithmetic",
    "EngineName",
    "Mode",
    "Precision",
    "Running",
    "check_arithmetic",
    "graph_file",
]

EngineName = Literal["openvino", "onnxruntime"]
"""``openvino``: the faster one on today's processors; ``onnxruntime``: the portable one."""

Precision = Literal["fp32", "bf16", "int8"]
"""Of the encoder, where the time goes; the temporal stage stays fp32. ``bf16`` is the engine's own doing, with the same
graph; ``int8`` is another graph, calibrated on clips."""

Mode = Literal["latency", "throughput"]
"""``latency``: all cores work on one batch; ``throughput``: each core works on a batch of its own."""

Arithmetic = tuple[EngineName, Precision]
"""What `tubelet verify` judges."""

PLAIN: tuple[Arithmetic, ...] = (("openvino", "fp32"), ("onnxruntime", "fp32"))
"""What every bundle is verified for when it is built: it takes no videos."""


def check_arithmetic(engine: EngineName, precision: Precision) -> None:
    """Makes sure that an engine has a precision at all.

    Raises:
        ValueError: it has not, on any machine.
    """
    if engine == "onnxruntime" and precision == "bf16":
        raise ValueError("ONNX Runtime has no bf16 on processors; take openvino, or another precision")


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """How a model's encoder runs."""

    engine: EngineName
    precision: Precision
    mode: Mode

    def __post_init__(self) -> None:
        check_arithmetic(self.engine, self.precision)


DEFAULT_RUNNING = Running(engine="openvino", precision="fp32", mode="latency")
"""What every bundle was verified for, on every processor."""


def graph_file(step: str, precision: Precision = "fp32") -> str:
    """Name of a step's graph, in a bundle and in a repository."""
    return f"{step}.int8.onnx" if (step, precision) == ("encoder", "int8") else f"{step}.onnx"
