"""Shared memory of the Python backend: enough of it at the start, none of it left behind."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tubelet.spec.errors import MachineError

__all__ = ["check_free", "region_prefix", "remove_regions", "remove_stale_regions"]

SHM = Path("/dev/shm")

_REGION = re.compile(r"tubelet_(?P<pid>\d+)_")


def region_prefix() -> str:
    """The prefix of this process's regions; the process id in it tells later which are stale."""
    return f"tubelet_{os.getpid()}_"


def remove_regions(prefix: str) -> int:
    """Removes the regions that begin with ``prefix``; returns how many there were."""
    regions = list(SHM.glob(prefix + "*"))
    for region in regions:
        region.unlink(missing_ok=True)
    return len(regions)


def remove_stale_regions() -> int:
    """Removes the regions of supervisors that are no more; returns how many there were."""
    removed = 0
    for region in SHM.glob("tubelet_*"):
        found = _REGION.match(region.name)
        if found and not Path("/proc", found["pid"]).exists():
            region.unlink(missing_ok=True)
            removed += 1
    return removed


def check_free(needed_bytes: int) -> None:
    """Refuses to start where the steps' regions would not fit.

    Raises:
        MachineError: ``missing``; says how much is needed, and how a container gets it.
    """
    free = shutil.disk_usage(SHM).free
    if free < needed_bytes:
        raise MachineError(
            "missing",
            f"/dev/shm has {free >> 20} MiB free, {needed_bytes >> 20} MiB are needed; "
            "in a container, start it with --shm-size",
        )
