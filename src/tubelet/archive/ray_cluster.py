"""The way to a Ray cluster: connects quietly, tells nobody of it, and says in one line what is wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tubelet.spec.errors import InvalidRequestError, MachineError, UnavailableError

__all__ = ["LOCAL", "connected", "count_cpus"]

LOCAL = "local"
"""The address that starts a cluster of this machine alone, for as long as the run takes."""
_CLIENT = "ray://"
_CONNECT_S = 10.0
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray's own telemetry
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",  # or the log of a raylet that died is printed on stdout
}
"""Has to stand before Ray is imported, so functions import it."""


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[None]:
    """Connects this process to a cluster, and disconnects it in the end.

    Ray's Python half takes SIGTERM over where it is started in the main thread, so another one starts it; its core
    takes it wherever it is started, and has to give it back.

    Args:
        address: ``auto`` (the cluster of which this machine is a node), ``HOST:PORT`` (the same, of several),
            ``ray://HOST:PORT`` (from a machine outside) or ``local``.

    Raises:
        InvalidRequestError: such an address there is not.
        UnavailableError: no cluster answers.
        MachineError: the cluster has another version of Ray or of Python.
    """
    os.environ.update(_ENVIRONMENT)
    await asyncio.to_thread(_connect, address)
    _take_signal_back(signal.SIGTERM)
    import ray

    try:
        yield
    finally:
        await asyncio.to_thread(ray.shutdown)


def _connect(address: str) -> None:
    _look_for(address)
    try:
        import ray
    except ModuleNotFoundError as exc:
        raise MachineError("missing", f"no package {exc.name}; pip install 'tubelet[ray]'") from exc

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        quiet["include_dashboard"] = False
    try:
        ray.init(address=address, **quiet)
    except (ValueError, TypeError) as exc:
        raise InvalidRequestError("bad_parameter", f"{address!r} is no address of a Ray cluster: {exc}") from exc
    except ConnectionError as exc:
        raise UnavailableError("backend_lost", f"no Ray cluster at {address}: {_first_line(exc)}") from exc
    except RuntimeError as exc:
        raise MachineError(
            "start_failed", f"cannot work with the Ray cluster at {address}: {_first_line(exc)}"
        ) from exc


def _look_for(address: str) -> None:
    """Ray would try for two minutes, and end the process then."""
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    if not host:
        return
    if not port.isdecimal():
        raise InvalidRequestError(
            "bad_parameter", f"a Ray address is auto, local, HOST:PORT or ray://HOST:PORT, got {address!r}"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as exc:
        message = f"no Ray cluster at {address} ({exc}); `ray start --head` starts one, `ray status` shows its address"
        raise UnavailableError("backend_lost", message) from exc


def _take_signal_back(number: signal.Signals) -> None:
    """Puts Python's handler of a signal in force again, whose place Ray's core has taken."""
    handler = signal.getsignal(number)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)
        signal.siginterrupt(number, False)


def count_cpus() -> int:
    """CPUs of the nodes that the connected cluster has at present."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("CPU", 0))


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0]
