"""Shared memory of the Python backend: enough of it at the start, none of it left behind."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from tubelet.spec.errors import MachineError

__all__ = [
    "MIN_FREE_BYTES",
    "PREFIX_VARIABLE",
    "SHM",
    "check_free",
    "region_prefix",
    "remove_regions",
    "remove_stale",
    "temporary_folder",
]

SHM = Path("/dev/shm")

PREFIX_VARIABLE = "TUBELET_SHM_PREFIX"
"""Environment variable that tells a server's processes how the names of its regions begin."""

MIN_FREE_BYTES = 256 << 20
"""Below this nothing is served: regions grow with the videos, and a container's 64 MiB have never been enough."""

_OURS = re.compile(r"tubelet_(?P<pid>\d+)_")


def region_prefix() -> str:
    """The prefix of this process's regions and folders; the process id in it tells later which are stale."""
    return f"tubelet_{os.getpid()}_"


def temporary_folder() -> Path:
    """Where supervisors keep their files: a folder whose name means nothing to a shell, for Triton does not quote."""
    folder = tempfile.gettempdir()
    return Path(folder if re.fullmatch(r"[\w./-]+", folder, re.ASCII) else "/tmp")


def remove_regions(prefix: str) -> int:
    """Removes the regions that begin with ``prefix``; returns how many there were."""
    regions = list(SHM.glob(prefix + "*"))
    for region in regions:
        region.unlink(missing_ok=True)
    return len(regions)


def remove_stale() -> int:
    """Removes regions and temporary folders of supervisors that are no more; returns how many there were.

    To be called before there are any of our own: in a container every supervisor is process 1, and what has our id was
    left by the one before, in a pod whose volumes outlive its containers.

    A process id is believed to mean the same process everywhere: servers in several containers must not share
    ``/dev/shm``.
    """
    removed = 0
    for path in (*SHM.glob("tubelet_*"), *temporary_folder().glob("tubelet_*")):
        found = _OURS.match(path.name)
        if found and (int(found["pid"]) == os.getpid() or not Path("/proc", found["pid"]).exists()):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed += 1
    return removed


def check_free(needed_bytes: int) -> None:
    """Refuses to start where the steps' regions would not fit.

    Raises:
        MachineError: ``missing``; says how much is needed, and how a container gets it.
    """
    free = shutil.disk_usage(SHM).free
    needed_bytes = max(needed_bytes, MIN_FREE_BYTES)
    if free < needed_bytes:
        raise MachineError(
            "missing",
            f"/dev/shm has {free >> 20} MiB free, {needed_bytes >> 20} MiB are needed; "
            "in a container, start it with --shm-size",
        )
