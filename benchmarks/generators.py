"""What is asked of a server, said once for both load generators, and what each found; `tubelet loadtest` runs here."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tubelet.loadtest.histograms import from_text
from tubelet.loadtest.measured import Result

__all__ = ["Found", "Load", "run_ours", "scenario_text"]

TUBELET = Path(".venv/bin/tubelet")
PATIENCE_S = 120.0
WARM_UP_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """One load: an open loop (Poisson) or a closed one."""

    name: str
    model: str
    videos: Path
    """A folder beside the scenario; they are sent by turns."""
    seconds: float
    rate: float = 0.0
    """Requests a second of an open loop."""
    callers: int = 0
    """Of a closed one."""
    threads: int = 0
    """perf_analyzer only, open loop: so many threads that wait for their answers; 0: none has to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a generator says."""

    rate: float
    """Answers a second."""
    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float | None = None
    max_ms: float | None = None
    beyond_1_s: int | None = None
    """Requests."""
    errors: int | None = None
    """Here and below: ours only."""
    offered_rate: float | None = None
    lag_p50_ms: float | None = None
    lag_p99_ms: float | None = None
    generator_cores: float | None = None
    triton_count: int | None = None
    """By Triton's own statistics of the public name, over the same time, as the generator reads them; here and below
    of answered requests alone."""
    triton_mean_ms: float | None = None
    """From the moment Triton has the request until it has the answer: without gRPC and the wire."""
    triton_queue_ms: float | None = None
    """Mean, of all its steps together."""
    triton_compute_ms: float | None = None
    """Likewise, with the copying of inputs and outputs."""
    finding: str | None = None
    """What the generator says against its own figures."""


def scenario_text(load: Load, url: str, metrics_url: str) -> str:
    """The scenario of a load."""
    arrivals = f'"closed", callers = {load.callers}' if load.callers else f'"steady", rate = {load.rate:g}'
    return "\n".join(
        [
            f'name = "{load.name}"',
            f'url = "{url}"',
            f'metrics_url = "{metrics_url}"',
            f"warm_up_s = {WARM_UP_S}",
            f"duration_s = {load.seconds:g}",
            f'videos.sent = {{ kind = "folder", path = "{load.videos.name}" }}',
            "[[streams]]",
            'name = "stream"',
            f"arrivals = {{ kind = {arrivals} }}",
            f'requests = [{{ name = "request", model = "{load.model}", videos = "sent" }}]',
            "",
        ]
    )


def run_ours(load: Load, url: str, metrics_url: str, scratch: Path) -> Found:
    """``tubelet loadtest`` in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    path = scratch / f"{load.name}.toml"
    path.write_text(scenario_text(load, url, metrics_url), encoding="utf-8")
    command: list[str | Path] = [TUBELET, "loadtest", path, "--out", scratch]
    said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S + load.seconds, check=False)
    if said.returncode:
        raise RuntimeError(f"tubelet loadtest failed ({said.returncode}): {said.stderr[-2000:]}")
    return _read(Result.load(scratch / f"{load.name}.json"))


def _read(result: Result) -> Found:
    measured = result.measurement
    together, lag = measured.together, measured.generator.lag
    if measured.server is None:
        raise RuntimeError("Triton's statistics are missing from the result")
    public, *steps = measured.server.steps
    recorded = from_text(together.latency.histogram).get_recorded_iterator()
    return Found(
        rate=measured.rate,
        count=together.answered,
        mean_ms=together.latency.mean_ms,
        p50_ms=together.latency.p50_ms,
        p90_ms=together.latency.p90_ms,
        p99_ms=together.latency.p99_ms,
        p999_ms=together.latency.p999_ms,
        max_ms=together.latency.max_ms,
        beyond_1_s=sum(at.count_at_value_iterated_to for at in recorded if at.value_iterated_to > 1_000_000),
        errors=sum(together.errors.values()),
        offered_rate=measured.offered_rate,
        lag_p50_ms=lag.p50_ms,
        lag_p99_ms=lag.p99_ms,
        generator_cores=measured.generator.cpu_cores,
        triton_count=public.requests,
        triton_mean_ms=public.total_ms,
        triton_queue_ms=sum(step.queue_ms for step in steps),
        triton_compute_ms=public.input_ms + public.compute_ms + public.output_ms,
    )
