"""Processor time and memory of the server's processes, where it runs on this machine.

The server is the process that listens on the address's port, all that it started, and the ``tubelet serve`` that
started it. What else ``tubelet serve`` started is its user's command, which may be the load test itself.
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression

import psutil

from tubelet.loadtest.measured import ProcessFigures
from tubelet.loadtest.samples import Samples

__all__ = ["ProcessWatch", "Usage", "growth_per_hour", "process_name"]

_STUB = "triton_python_backend_stub"
_LIST_EVERY = 30
"""Samples: to look through all processes of a machine for new ones takes long."""
_FEWEST_FOR_GROWTH = 10
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Usage:
    """All processes of the server together."""

    cpu_s: float = 0.0
    """Processor time since the first sample."""
    memory_bytes: int = 0
    """Resident; what processes share, such as the tensors between two steps, is counted in each of them."""


@dataclass(slots=True)
class _Watched:
    name: str
    cpu_before_s: float
    """What it had used before it was watched."""
    first_bytes: int
    cpu_s: float = 0.0
    last_bytes: int = 0
    most_bytes: int = 0
    memory: Samples[tuple[float, int]] = field(default_factory=lambda: Samples(lambda _, later: later))
    """Moments in seconds, and bytes."""


class ProcessWatch:
    """Watches the processes of one server; its calls block for some milliseconds, and are for one thread.

    Args:
        host: of the server, an address of this machine.
        port: on which it listens.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._watched: dict[psutil.Process, _Watched] = {}
        self._listening: psutil.Process | None = None
        self._alive: list[psutil.Process] = []
        self._began_s = self._ended_s = 0.0
        self._until_listing = 0

    def sample(self) -> Usage:
        """Looks at every process; who has died keeps what it used, who is new begins with nothing."""
        now = time.monotonic()
        if self._until_listing == 0:
            self._alive = self._list()
            self._until_listing = _LIST_EVERY
        self._until_listing -= 1
        is_first = not self._watched
        if is_first:
            self._began_s = now
        self._ended_s = now
        memory = [self._look(process, now, is_first=is_first) for process in self._alive]
        if None in memory or not memory:
            self._listening, self._until_listing = None, 0  # one has ended: another may be in its place
        cpu_s = sum(watched.cpu_s for watched in self._watched.values())
        return Usage(cpu_s=cpu_s, memory_bytes=sum(size or 0 for size in memory))

    def _list(self) -> list[psutil.Process]:
        """All processes of the server: the one that listens, what it started, who started it."""
        try:
            self._listening = self._listening or _listening(self._host, self._port)
            if self._listening is None:
                return []
            processes = [self._listening, *self._listening.children(recursive=True)]
        except psutil.Error:  # it has just ended
            return []
        with suppress(psutil.Error):
            parent = self._listening.parent()
            if parent is not None and _is_supervisor(parent.cmdline()):
                processes.append(parent)
        return processes

    def _look(self, process: psutil.Process, now: float, *, is_first: bool) -> int | None:
        """Its memory in bytes; None: it has ended."""
        try:
            with process.oneshot():
                if process.status() == psutil.STATUS_ZOMBIE:
                    return None
                times, size = process.cpu_times(), int(process.memory_info().rss)
            name = process_name(process.name(), process.cmdline())
        except psutil.Error:
            return None
        used_s = times.user + times.system
        watched = self._watched.get(process)
        if watched is None:
            watched = self._watched[process] = _Watched(
                name=name, cpu_before_s=used_s if is_first else 0.0, first_bytes=size
            )
        watched.name = name  # a stub is a copy of the server for a moment
        watched.cpu_s = used_s - watched.cpu_before_s
        watched.last_bytes = size
        watched.most_bytes = max(watched.most_bytes, size)
        watched.memory.add((now, size))
        return size

    def figures(self) -> tuple[ProcessFigures, ...]:
        """Of every process that was seen, in the order in which they were started."""
        numbers: Counter[str] = Counter()
        found = []
        elapsed_s = self._ended_s - self._began_s
        for process, watched in sorted(self._watched.items(), key=lambda item: item[0].create_time()):
            numbers[watched.name] += 1
            number = numbers[watched.name]
            found.append(
                ProcessFigures(
                    name=watched.name if number == 1 else f"{watched.name}#{number}",
                    pid=process.pid,
                    cpu_cores=watched.cpu_s / elapsed_s if elapsed_s else 0.0,
                    first_mib=watched.first_bytes / _MIB,
                    last_mib=watched.last_bytes / _MIB,
                    most_mib=watched.most_bytes / _MIB,
                    growth_mib_per_hour=growth_per_hour(watched.memory.all) / _MIB,
                )
            )
        return tuple(found)


def growth_per_hour(samples: list[tuple[float, int]]) -> float:
    """Slope of a line through the second half of the samples (seconds, number); 0 where these are too few."""
    half = samples[len(samples) // 2 :]
    if len(half) < _FEWEST_FOR_GROWTH:
        return 0.0
    seconds, numbers = zip(*half, strict=True)
    return linear_regression(seconds, numbers).slope * 3600


def process_name(name: str, command: list[str]) -> str:
    """What a process of the server is called: after the model that it serves, where it is the stub of one.

    Args:
        name: the system's name of it.
        command: its command line; that of a stub has ``MODEL/VERSION/model.py`` as its first argument.
    """
    if len(command) > 1 and Path(command[0]).name == _STUB:
        return Path(command[1]).parent.parent.name
    return "tubelet serve" if _is_supervisor(command) else name


def _is_supervisor(command: list[str]) -> bool:
    return "serve" in command and any(Path(word).name == "tubelet" for word in command[:2])


def _listening(host: str, port: int) -> psutil.Process | None:
    """The process that listens there; of several, that which began, since what it started may share its sockets."""
    pids = {
        connection.pid
        for connection in psutil.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr.port == port
        and connection.pid is not None
        and _is_reached(connection.laddr.ip, host)
    }
    # A server within the load test's own process has no processes of its own.
    return min(_existing(pids - {os.getpid()}), key=lambda process: process.create_time(), default=None)


def _existing(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


def _is_reached(listening: str, host: str) -> bool:
    """Whether a socket that is bound to the address ``listening`` is reached by way of ``host``."""
    address = ipaddress.ip_address(listening)
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_unspecified:
        return True
    return address.is_loopback if host == "localhost" else address == ipaddress.ip_address(host.strip("[]"))
