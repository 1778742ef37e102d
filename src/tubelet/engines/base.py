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
    def small(cls, engine: EngineName) -> EngineSettings:
        """One thread, for a few small layers: waking a second one costs more than it brings."""
        return cls(engine=engine, precision="fp32", threads=1, streams=1)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def processor_name() -> str:
    """As /proc/cpuinfo has it, or the machine's architecture where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
