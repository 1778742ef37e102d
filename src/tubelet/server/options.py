"""What `tubelet serve` was asked for, and whether this machine and this repository allow it."""

from __future__ import annotations

import shutil
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tubelet.engines.open import check_machine
from tubelet.server.card import check_card
from tubelet.server.triton import Ports, Triton
from tubelet.spec.errors import ExportMismatchError, MachineError
from tubelet.spec.repository import RepositoryIndex

__all__ = ["ServeOptions", "check_options", "choose_ports", "start_timeout_s"]

LOOPBACK = ("127.0.0.1", "localhost")

START_TIMEOUT_S, GPU_START_TIMEOUT_S, BUILD_TIMEOUT_S = 120.0, 300.0, 1800.0
"""Until every model answers: on processors; where plans are read into a card and each profile is tried; where ONNX
Runtime has TensorRT build its engines first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """What `tubelet serve` was asked for."""

    repository: Path
    http_port: int = 8000
    """0, here and below: any free port."""
    grpc_port: int = 8001
    metrics_port: int = 8002
    address: str = "127.0.0.1"
    expose_unpatched_triton: bool = False
    """Lets the wheel's Triton 2.51, which has known holes, listen on an address that others reach."""
    allow_unverified: bool = False
    """Serves models that nobody has compared with their checkpoints at the engine and precision they run at."""
    allow_shared_memory: bool = False
    """Lets callers of this machine put large inputs into shared memory. Triton 2.51 then lets them name any region, the
    server's own too: they must be trusted as much as the server."""
    json_events: bool = False
    command: tuple[str, ...] = ()
    """Runs beside the server, which stops when the command ends."""


def check_options(options: ServeOptions, triton: Triton, index: RepositoryIndex) -> None:
    """Refuses, before anything is started, what cannot or must not be served.

    Raises:
        MachineError: ``start_failed``: the address must not be listened on; ``missing``: the command, an engine or a
            precision that this machine does not have, or, of target ``gpu``, what `tubelet.server.card` looks for.
        ExportMismatchError: ``unverified``: a model is not known to compute what its checkpoint computes.
    """
    _check_address(options, triton)
    _check_command(options.command)
    if not options.allow_unverified:
        _check_verified(index)
    if index.target == "gpu":
        check_card(triton, index)
        return
    for running in {model.running for model in index.models}:
        check_machine(running.engine, running.precision)


def choose_ports(options: ServeOptions) -> Ports:
    """Takes the ports that were asked for, or free ones.

    Raises:
        MachineError: ``port_in_use``, naming it.
    """
    wanted_ports = [port for port in (options.http_port, options.grpc_port, options.metrics_port) if port]
    if len(set(wanted_ports)) < len(wanted_ports):
        raise MachineError("port_in_use", f"HTTP, gRPC and metrics need a port each, got {wanted_ports}")
    chosen = []
    with ExitStack() as stack:
        for wanted in (options.http_port, options.grpc_port, options.metrics_port):
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((options.address, wanted))
            except OSError as exc:
                raise MachineError(
                    "port_in_use", f"cannot listen on {options.address}:{wanted}: {exc.strerror}"
                ) from exc
            chosen.append(listener.getsockname()[1])
    return Ports(*chosen)


def start_timeout_s(index: RepositoryIndex) -> float:
    """How long a server of this repository may take until every model answers."""
    if index.target == "cpu":
        return START_TIMEOUT_S
    engines = {model.running.engine for model in index.models}
    return BUILD_TIMEOUT_S if "onnxruntime_tensorrt" in engines else GPU_START_TIMEOUT_S


def _check_verified(index: RepositoryIndex) -> None:
    for model in index.models:
        if not model.verified:
            engine, precision = model.running.engine, model.running.precision
            raise ExportMismatchError(
                "unverified",
                f"{model.name} was not verified, or did not pass, for {engine} {precision}; run: tubelet verify BUNDLE "
                f"--engine {engine} --precision {precision} --videos DIR, and write the repository again; or serve it "
                "all the same with --allow-unverified",
            )


def _check_command(command: tuple[str, ...]) -> None:
    if command and shutil.which(command[0]) is None:
        raise MachineError("missing", f"cannot run {command[0]!r}: there is no such command")


def _check_address(options: ServeOptions, triton: Triton) -> None:
    if options.allow_shared_memory and options.address not in LOOPBACK:
        raise MachineError(
            "start_failed",
            f"shared memory is for callers of this machine, not of {options.address}: whoever may use it can read and "
            "write what the server keeps there; use --address 127.0.0.1, or leave --allow-shared-memory away",
        )
    if triton.is_wheel and options.address not in LOOPBACK and not options.expose_unpatched_triton:
        raise MachineError(
            "start_failed",
            f"the wheel's Triton 2.51 has known holes and must not listen on {options.address}; use 127.0.0.1 behind a "
            "proxy, the container's Triton, or --expose-unpatched-triton",
        )
