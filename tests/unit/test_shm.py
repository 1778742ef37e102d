"""Shared memory: only our own regions are removed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tubelet.server import shm
from tubelet.spec.errors import MachineError


@pytest.fixture
def ended_pid() -> int:
    """The id of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


@pytest.fixture
def regions(ended_pid: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setattr(shm, "SHM", tmp_path)  # servers beside the test have regions of their own
    names = {
        "ours": f"{shm.region_prefix()}a",
        "alive": f"tubelet_{os.getppid()}_d",
        "stale": f"tubelet_{ended_pid}_b",
        "foreign": f"other_{ended_pid}_c",
    }
    paths = {key: shm.SHM / name for key, name in names.items()}
    for path in paths.values():
        path.touch()
    return paths


def test_only_those_with_the_prefix_go(regions: dict[str, Path]) -> None:
    assert shm.remove_regions(shm.region_prefix()) == 1
    assert [key for key, path in regions.items() if path.exists()] == ["alive", "stale", "foreign"]


def test_stale_are_those_whose_supervisor_is_no_more(regions: dict[str, Path]) -> None:
    """Those with our own process id, too: they are another's that had it before."""
    assert shm.remove_stale() >= 2
    assert [key for key, path in regions.items() if path.exists()] == ["alive", "foreign"]
    assert str(os.getpid()) in regions["ours"].name


def test_too_little_room_is_said_with_the_remedy() -> None:
    shm.check_free(1)
    with pytest.raises(MachineError, match="--shm-size"):
        shm.check_free(1 << 60)
