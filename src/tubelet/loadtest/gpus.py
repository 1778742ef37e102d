"""What Triton's metrics page says of the cards, and of the requests that wait.

Format: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from tubelet.loadtest.measured import GpuFigures

__all__ = ["GpuTally", "Page", "read_page"]

_PENDING = "nv_inference_pending_request_count"
_UTILISATION, _MEMORY, _POWER = "nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage"
_MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What is looked at of the page."""

    pending: dict[str, int]
    """Requests that wait for their execution, by model; Triton does not count those of ensembles."""
    gpus: dict[str, dict[str, float]]
    """By uuid, Triton's gauges that are there."""

    def queued(self, steps: Sequence[str]) -> int:
        """Requests that wait before these steps; -1: the page has none of them."""
        known = [self.pending[step] for step in steps if step in self.pending]
        return sum(known) if known else -1


def read_page(text: str) -> Page:
    """Reads the page.

    Raises:
        ValueError: it is no page of metrics.
    """
    # A page has thousands of lines, most of them about latency: reading them all would hold up who makes the load.
    wanted = (line for line in text.splitlines() if line.startswith(("nv_gpu_", _PENDING)))
    pending: dict[str, int] = {}
    gpus: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families("\n".join(wanted) + "\n"):
        for sample in family.samples:
            if sample.name == _PENDING:
                model = sample.labels.get("model", "")
                pending[model] = pending.get(model, 0) + int(sample.value)
            elif sample.name in (_UTILISATION, _MEMORY, _POWER):
                gpus.setdefault(sample.labels.get("gpu_uuid", ""), {})[sample.name] = sample.value
    return Page(pending=pending, gpus=gpus)


@dataclass(slots=True)
class _Gpu:
    first_bytes: float
    most_bytes: float = 0.0
    utilisation: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Sum and number of samples; below, too."""
    power: list[float] = field(default_factory=lambda: [0.0, 0.0])


class GpuTally:
    """Adds up the samples of each card."""

    def __init__(self) -> None:
        self._gpus: dict[str, _Gpu] = {}

    def take(self, page: Page) -> None:
        """Takes the gauges of a moment."""
        for uuid, gauges in page.gpus.items():
            memory = gauges.get(_MEMORY, 0.0)
            gpu = self._gpus.setdefault(uuid, _Gpu(first_bytes=memory))
            gpu.most_bytes = max(gpu.most_bytes, memory)
            for sums, gauge in ((gpu.utilisation, _UTILISATION), (gpu.power, _POWER)):
                if gauge in gauges:
                    sums[0] += gauges[gauge]
                    sums[1] += 1

    @property
    def figures(self) -> tuple[GpuFigures, ...]:
        """Of every card, by its uuid."""
        return tuple(
            GpuFigures(
                uuid=uuid,
                utilisation=_mean(gpu.utilisation),
                first_mib=gpu.first_bytes / _MIB,
                most_mib=gpu.most_bytes / _MIB,
                power_w=_mean(gpu.power),
            )
            for uuid, gpu in sorted(self._gpus.items())
        )


def _mean(sums: Sequence[float]) -> float:
    return sums[0] / sums[1] if sums[1] else 0.0
