"""What every engine offers."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from tubelet.spec.engine import EngineName, Mode, Precision

__all__ = ["Arrays", "Engine", "EngineSettings", "num_cores", "processor_name"]

Arrays = dict[str, NDArray[Any]]

SMALL_GRAPH_BYTES = 16_000_000
"""A few small layers over a few tokens: waking a second thread costs more than it brings."""


class Engine(Protocol):
    """A graph that is ready to run."""

    metadata: Mapping[str, str]
    """What the exporter wrote into the graph, ``contract_digest`` among it."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """Runs the graph once; arrays by tensor name in, arrays by tensor name out.

        As many threads as there are ``streams`` may call it at a time.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """How a graph is run."""

    engine: EngineName
    precision: Precision
    threads: int
    """Of all streams together."""
    streams: int
    """Runs at a time, each on its part of the threads."""

    @classmethod
    def of_mode(cls, engine: EngineName, precision: Precision, mode: Mode) -> EngineSettings:
        """All of this machine's cores: on one run, or one on each."""
        cores = num_cores()
        return cls(engine=engine, precision=precision, threads=cores, streams=1 if mode == "latency" else cores)

    @classmethod
    def of_temporal(cls, engine: EngineName, graph: Path) -> EngineSettings:
        """Of a temporal stage, whose graph is this file: one thread if it is small, else all cores; always fp32."""
        files = (graph, graph.with_name(f"{graph.name}.data"))
        weights = sum(file.stat().st_size for file in files if file.is_file())
        return cls.small(engine) if weights < SMALL_GRAPH_BYTES else cls.of_mode(engine, "fp32", "latency")

    @classmethod
    def small(cls, engine: EngineName) -> EngineSettings:
        """One thread."""
        return cls(engine=engine, precision="fp32", threads=1, streams=1)


_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def num_cores(cpu_quota: Path = _CPU_QUOTA) -> int:
    """Cores that this process may use, or as many as its share of the machine's time comes to.

    A container's limit (``docker --cpus``, Kubernetes' ``limits.cpu``) is a quota of time over all cores: with more
    threads it is used up early in each period, and then all of them stand still.

    Args:
        cpu_quota: the control group's ``cpu.max``: microseconds, or ``max``, of a period.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_quota.read_text(encoding="ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or ``max``
        return cores


def processor_name() -> str:
    """As /proc/cpuinfo has it, or the machine's architecture where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
