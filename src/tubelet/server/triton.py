"""Finds a real tritonserver on this machine and says how to start it."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tubelet.spec.errors import MachineError

__all__ = ["BACKENDS", "Pools", "Ports", "Triton", "find_tritonserver", "server_arguments"]

CONTAINER_BINARY = Path("/opt/tritonserver/bin/tritonserver")

ADMIN_GROUPS = ("model-repository", "shared-memory", "trace", "logging")
"""Parts of Triton's protocol that only the supervisor may use: each has crashed or opened servers."""

MAX_CONNECTION_AGE_S = 60
"""Then a gRPC caller connects anew, without losing an answer: to a server that is new, or away from one that is going.
Of a Triton that callers reach directly; the wheel's has a proxy before it."""


BACKENDS = Path("/opt/tritonserver/backends")
"""Where a Triton that is not the wheel's looks for its backends."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a server listens."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True, slots=True)
class Pools:
    """Memory that Triton sets aside for the tensors between steps."""

    device_bytes: int
    """On the card."""
    pinned_bytes: int
    """On the host, where the card reads by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Triton:
    """A tritonserver that can be started."""

    binary: Path
    is_wheel: bool
    """From the wheel: Triton 2.51, the Python backend only, unpatched; never to be shown to a network."""
    library_folders: tuple[Path, ...] = ()
    backend_parts: tuple[Path, ...] = ()
    """Files that make up the folder of the Python backend; none where the server has its own."""

    def assemble_backends(self, folder: Path) -> Path | None:
        """Puts the Python backend together in ``folder``: library, stub of this Python, utilities.

        As links, so that nothing has to be executable there: containers mount ``/tmp`` without that right.
        """
        if not self.backend_parts:
            return None
        python = folder / "backends" / "python"
        python.mkdir(parents=True)
        for part in self.backend_parts:
            (python / part.name).symlink_to(part)
        return python.parent

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Environment of the server: its libraries, and this interpreter as the first ``python3``."""
        environment = dict(base)
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH") or os.defpath])
        folders = [str(folder) for folder in self.library_folders]
        if inherited := base.get("LD_LIBRARY_PATH"):
            folders.append(inherited)
        if folders:
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(folders)
        return environment


def find_tritonserver(environment: Mapping[str, str] = os.environ) -> Triton:
    """Finds the server: ``TRITONSERVER``, then the NGC container's, then the one in the wheel nvidia-pytriton.

    Raises:
        MachineError: ``missing``; there is none, or something that it needs is not there.
    """
    if named := environment.get("TRITONSERVER"):
        if not os.access(named, os.X_OK):
            raise MachineError("missing", f"TRITONSERVER names {named}, which cannot be executed")
        return Triton(binary=Path(named), is_wheel=False)
    if os.access(CONTAINER_BINARY, os.X_OK):
        return Triton(binary=CONTAINER_BINARY, is_wheel=False)
    return _find_in_wheel()


def server_arguments(
    triton: Triton,
    *,
    repository: Path,
    backends: Path | None,
    models: Sequence[str],
    address: str,
    ports: Ports,
    admin_key: str,
    shm_prefix: str,
    shm_bytes: int,
    pools: Pools | None = None,
    host_code: bool = False,
    allow_shared_memory: bool = False,
) -> list[str]:
    """The command line of tritonserver; what it leaves out is left out on purpose.

    No response cache (it does not see request parameters), no polling, no automatic completion of configurations.
    ``pools`` are a GPU's: with Triton's own 64 MiB the tensors would silently lie on the host. ``host_code`` lets
    TensorRT run what plans bring along. ``allow_shared_memory`` lets callers name regions that inputs lie in.
    """
    groups = [group for group in ADMIN_GROUPS if not (allow_shared_memory and group == "shared-memory")]
    restricted = f"{','.join(groups)}:tubelet-key={admin_key}"
    arguments = [
        str(triton.binary),
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        "--exit-timeout-secs=30",
        f"--http-address={address}",
        f"--grpc-address={address}",
        f"--metrics-address={address}",
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        f"--http-restricted-api={restricted}",
        f"--grpc-restricted-protocol={restricted}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--backend-config=python,shm-default-byte-size={shm_bytes}",
        "--metrics-config=summary_latencies=true",  # quantiles for monitoring: without it there are only sums
        "--log-info=false",
    ]
    if backends is not None:
        arguments.append(f"--backend-directory={backends}")
    if pools is not None:
        arguments.append(f"--cuda-memory-pool-byte-size=0:{pools.device_bytes}")
        arguments.append(f"--pinned-memory-pool-byte-size={pools.pinned_bytes}")
    if host_code:
        arguments.append("--backend-config=tensorrt,version-compatible=true")
    if triton.is_wheel:
        arguments.append("--allow-gpu-metrics=false")
    else:
        arguments.append(f"--grpc-max-connection-age={MAX_CONNECTION_AGE_S * 1000}")
    return arguments


def _find_in_wheel() -> Triton:
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise MachineError(
            "missing",
            "no tritonserver: neither TRITONSERVER, nor /opt/tritonserver, nor the wheel nvidia-pytriton; "
            "pip install 'tubelet[server]'",
        )
    _check_numpy()
    package = Path(spec.origin).parent
    root = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise MachineError("missing", f"the wheel nvidia-pytriton has no Python backend for Python {version}")
    backend = root / "backends" / "python"
    return Triton(
        binary=root / "bin" / "tritonserver",
        is_wheel=True,
        library_folders=(package.parent / "nvidia_pytriton.libs", _libpython_folder()),
        backend_parts=(backend / "libtriton_python.so", backend / "triton_python_backend_utils.py", stub),
    )


def _check_numpy() -> None:
    """With numpy 2, the tensors of the wheel's Python backend arrive empty, and nothing says so."""
    import numpy

    if int(numpy.__version__.split(".")[0]) >= 2:
        raise MachineError("missing", f"numpy 1.26 is needed, found {numpy.__version__}; pip install 'numpy<2'")


def _libpython_folder() -> Path:
    """The folder of the shared libpython, which the backend's stub is linked against."""
    library = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folder = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for candidate in (folder, folder / multiarch, Path("/usr/lib") / multiarch, Path("/usr/local/lib")):
        if (candidate / library).exists():
            return candidate
    raise MachineError(
        "missing",
        f"{library} is not on this machine: install Debian's package libpython"
        f"{sys.version_info.major}.{sys.version_info.minor}, or a Python built with --enable-shared",
    )
