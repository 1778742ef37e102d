"""What multiplies, how precisely, and for whom: the words for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["EngineName", "Mode", "Precision", "Running"]

EngineName = Literal["openvino", "onnxruntime"]
"""``openvino``: the faster one on today's processors; ``onnxruntime``: the portable one."""

Precision = Literal["fp32", "bf16", "int8"]
"""Of the encoder, where the time goes; the temporal stage stays fp32. ``bf16`` is the engine's own doing, with the same
graph; ``int8`` is another graph, calibrated on clips."""

Mode = Literal["latency", "throughput"]
"""``latency``: all cores work on one batch; ``throughput``: each core works on a batch of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """How a model's encoder runs."""

    engine: EngineName
    precision: Precision
    mode: Mode

    def __post_init__(self) -> None:
        if self.engine == "onnxruntime" and self.precision == "bf16":
            raise ValueError("ONNX Runtime has no bf16 on processors; take openvino, or another precision")
