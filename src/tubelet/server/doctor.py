"""Says what this machine can do and what is missing, each with its remedy.

Small functions look, pure ones judge what was seen.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from tubelet.engines.onnxruntime import load_onnxruntime
from tubelet.engines.openvino import load_openvino
from tubelet.server.doctor_gpu import examine_gpu
from tubelet.server.findings import Finding, installed_version
from tubelet.server.shm import MIN_FREE_BYTES, SHM
from tubelet.spec.errors import MachineError

__all__ = [
    "examine",
    "is_able_to_serve",
    "judge_cpu",
    "judge_numpy",
    "judge_port",
    "judge_python",
    "judge_shared_memory",
]

DEFAULT_PORTS = {"HTTP": 8000, "gRPC": 8001, "metrics": 8002}
SUPPORTED_PYTHONS = ((3, 11), (3, 12))
_MIB = 1024 * 1024


def examine() -> tuple[Finding, ...]:
    """Looks at this machine; changes nothing and starts no server."""
    return (
        judge_python(sys.version_info[:2]),
        _find_triton(),
        judge_numpy(installed_version("numpy")),
        *(_find_module(package, load) for package, load in _SERVING_PACKAGES.items()),
        *(_find_package(package, extra) for package, extra in _BUILDING_PACKAGES.items()),
        judge_shared_memory(_free_bytes(SHM)),
        judge_cpu(_cpu_flags(), os.sched_getaffinity(0)),
        *examine_gpu(),
        *(judge_port(name, port, is_free=_is_free(port)) for name, port in DEFAULT_PORTS.items()),
    )


def is_able_to_serve(findings: Sequence[Finding]) -> bool:
    """Whether nothing is missing that serving needs."""
    return all(finding.ok for finding in findings if finding.is_needed)


def judge_python(found: tuple[int, ...]) -> Finding:
    """Judges the interpreter, by its major and minor version."""
    supported = ", ".join(f"{major}.{minor}" for major, minor in SUPPORTED_PYTHONS)
    return Finding(
        name="Python",
        ok=found in SUPPORTED_PYTHONS,
        is_needed=True,
        detail=f"{platform.python_version()} on {platform.machine()}",
        remedy="" if found in SUPPORTED_PYTHONS else f"install one of Python {supported}",
    )


def judge_numpy(found: str | None) -> Finding:
    """Judges the version of numpy; None: not there."""
    ok = found is not None and found.split(".")[0] == "1"
    # With numpy 2 the tensors of Triton 2.51's Python backend are empty, and nothing says so.
    return Finding(
        name="numpy",
        ok=ok,
        is_needed=True,
        detail=found or "not installed",
        remedy="" if ok else "pip install 'numpy>=1.26,<2'",
    )


def judge_shared_memory(free_bytes: int | None) -> Finding:
    """Judges the free bytes of /dev/shm, through which tensors reach the steps; None: there is none."""
    ok = free_bytes is not None and free_bytes >= MIN_FREE_BYTES
    return Finding(
        name="shared memory",
        ok=ok,
        is_needed=True,
        detail=f"no {SHM}" if free_bytes is None else f"{free_bytes // _MIB} MiB free in {SHM}",
        remedy="" if ok else f"at least {MIN_FREE_BYTES // _MIB} MiB: docker run --shm-size=1g, or remount {SHM}",
    )


def judge_cpu(flags: frozenset[str], cores: set[int]) -> Finding:
    """Judges the processor by its flags, as /proc/cpuinfo spells them, and the cores that we may use.

    int8 runs on any; the instructions that are named make it fast.
    """
    bf16 = sorted(flags & {"avx512_bf16", "amx_bf16"})
    int8 = sorted(flags & {"avx_vnni", "avx512_vnni", "amx_int8"})
    vectors = next((name for name in ("avx512f", "avx2") if name in flags), "no AVX2")
    return Finding(
        name="processor",
        ok=True,
        is_needed=False,
        detail=f"{len(cores)} cores, {vectors}, bf16: {', '.join(bf16) or 'no'}, int8: {', '.join(int8) or 'slow'}",
        remedy="",
    )


def judge_port(name: str, port: int, *, is_free: bool) -> Finding:
    """Judges a default port; another one, or any free one (0), can always be chosen."""
    return Finding(
        name=f"{name} port",
        ok=is_free,
        is_needed=False,
        detail=f"{port} is {'free' if is_free else 'in use'}",
        remedy="" if is_free else f"stop what uses it, or tubelet serve --{name.lower()}-port 0",
    )


_SERVING_PACKAGES: dict[str, Callable[[], object]] = {
    "av": partial(import_module, "av"),
    "openvino": load_openvino,
    "onnxruntime": load_onnxruntime,
}
_BUILDING_PACKAGES = {"torch": "export", "onnx": "export", "nncf": "quantise"}


def _find_triton() -> Finding:
    from tubelet.server.triton import find_tritonserver

    try:
        triton = find_tritonserver()
    except MachineError as exc:
        return Finding(
            name="tritonserver",
            ok=False,
            is_needed=True,
            detail=exc.message,
            remedy="pip install 'tubelet[server]', or set TRITONSERVER",
        )
    origin = "from the wheel nvidia-pytriton, for 127.0.0.1 only" if triton.is_wheel else "of this machine"
    return Finding(name="tritonserver", ok=True, is_needed=True, detail=f"{triton.binary} ({origin})", remedy="")


def _find_module(package: str, load: Callable[[], object]) -> Finding:
    # Imported, not only looked up: a wheel whose libraries are missing is found by its metadata all the same.
    try:
        load()
        problem = ""
    except ImportError as exc:
        problem = str(exc)
    return Finding(
        name=package,
        ok=not problem,
        is_needed=True,
        detail=problem or (installed_version(package) or "installed"),
        remedy=f"pip install 'tubelet[server]' ({package})" if problem else "",
    )


def _find_package(package: str, extra: str) -> Finding:
    # Only its metadata: torch takes seconds to import, and serving does without it.
    found = installed_version(package)
    return Finding(
        name=package,
        ok=found is not None,
        is_needed=False,
        detail=found or "not installed; serving does without it",
        remedy="" if found else f"pip install 'tubelet[{extra}]'",
    )


def _free_bytes(folder: Path) -> int | None:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
