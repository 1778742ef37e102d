"""tubelet's own counters on Triton's metrics port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import triton_python_backend_utils as triton

__all__ = ["StepMetrics"]

_HELP = {
    "tubelet_videos_total": "Videos that were decoded and sampled",
    "tubelet_decode_seconds_total": "Time spent demuxing and decoding videos",
    "tubelet_frames_decoded_total": "Frames that came out of the decoder",
    "tubelet_gpu_decoded_videos_total": "Videos whose pictures the card's decoder reconstructed",
    "tubelet_gpu_decode_fallbacks_total": "Videos that the processor decoded though the card should have, by reason",
    "tubelet_units_wanted_total": "Encoder inputs that the views ask for, repetitions counted",
    "tubelet_units_encoded_total": "Encoder inputs that were computed, each distinct one once",
    "tubelet_features_reused_total": "Features that requests brought: units wanted that were encoded earlier",
    "tubelet_encoder_runs_total": "Calls of the encoder's engine; units per call show the batching",
    "tubelet_errors_total": "Requests that failed in a step of tubelet, by stable code",
    "tubelet_requests_running": "Requests that a step of tubelet works on at this moment",
}


class StepMetrics:
    """Counters of one step; Triton adds up those of the same name and labels over all processes."""

    def __init__(self, model: str, *, step: str) -> None:
        self._labels = {"model": model}
        self._step_labels = {"model": model, "step": step}
        self._families: dict[str, Any] = {}
        self._counters: dict[tuple[str, str], Any] = {}

    def add(self, name: str, amount: float) -> None:
        """Adds to the counter ``name``, which must be one of this module's."""
        self._counter(name, self._labels, "").increment(amount)

    def count_error(self, code: str) -> None:
        """Counts one failed request under its stable code."""
        self._counter("tubelet_errors_total", {**self._step_labels, "code": code}, code).increment(1)

    def count_fallback(self, reason: str) -> None:
        """Counts one video that the card did not decode under the reason, one of few."""
        self._counter("tubelet_gpu_decode_fallbacks_total", {**self._labels, "reason": reason}, reason).increment(1)

    @contextmanager
    def running(self, num_requests: int) -> Iterator[None]:
        """Shows, while the block lasts, that so many requests are worked on: Triton itself only counts what waits."""
        gauge = self._counter("tubelet_requests_running", self._step_labels, "")
        gauge.increment(num_requests)
        try:
            yield
        finally:
            gauge.increment(-num_requests)

    def _counter(self, name: str, labels: dict[str, str], key: str) -> Any:
        if (name, key) not in self._counters:
            if name not in self._families:
                kind = triton.MetricFamily.COUNTER if name.endswith("_total") else triton.MetricFamily.GAUGE
                self._families[name] = triton.MetricFamily(name=name, description=_HELP[name], kind=kind)
            self._counters[name, key] = self._families[name].Metric(labels=labels)
        return self._counters[name, key]
