"""System shared memory for large inputs: regions that are used again, and never left behind."""

from __future__ import annotations

import os
import secrets
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np

from tubelet.clients.calls import Tensor

__all__ = ["LEAST_BYTES", "Region", "Regions"]

LEAST_BYTES = 1 << 20
"""Of a smaller input the server would be told sooner than of its region."""

_KEPT_REGIONS = 4
_FOLDER = Path("/dev/shm")


@dataclass(slots=True, eq=False, weakref_slot=True)
class Region:
    """A piece of shared memory, which the server maps once it was told of it."""

    memory: SharedMemory
    is_registered: bool = False

    @property
    def name(self) -> str:
        """The file's, and Triton's."""
        return self.memory.name

    def write(self, tensor: Tensor) -> None:
        """Copies a tensor to its beginning, in the form in which it would travel."""
        array = tensor.array
        if tensor.datatype == "BYTES":
            array = np.frombuffer(array[0], np.uint8)
            np.ndarray((), "<u4", self.memory.buf)[...] = len(array)
        offset = tensor.num_bytes - array.nbytes
        np.ndarray(array.shape, array.dtype, self.memory.buf, offset)[...] = array

    def remove(self) -> None:
        """Takes the file away; the server keeps what it has mapped until it is told otherwise."""
        with suppress(FileNotFoundError):
            self.memory.unlink()
        self.memory.close()


class Regions:
    """The regions of one client, for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Region] = []
        self._all: set[Region] = set()
        # Runs at the interpreter's end at the latest; after a kill, Python's resource tracker takes the files away.
        self._finalizer = weakref.finalize(self, _remove_all, self._all, os.getpid())

    def take(self, size: int) -> Region | None:
        """A region of at least ``size`` bytes for one call; None: there is no memory for it."""
        with self._lock:
            fitting = [region for region in self._idle if size <= region.memory.size <= 2 * size]
            if fitting:
                region = min(fitting, key=lambda one: one.memory.size)
                self._idle.remove(region)
                return region
            made = _make(_rounded_up(size))
            if made is not None:
                self._all.add(made)
            return made

    def give_back(self, region: Region) -> list[Region]:
        """Keeps a region for a later call; returns those that are one too many and were removed."""
        with self._lock:
            self._idle.append(region)
            surplus, self._idle = self._idle[:-_KEPT_REGIONS], self._idle[-_KEPT_REGIONS:]
        for one in surplus:
            self.remove(one)
        return surplus

    def remove(self, region: Region) -> None:
        """Removes a region that was taken: of a call that failed, whose server may still be reading it."""
        with self._lock:
            self._all.discard(region)
        region.remove()

    def close(self) -> list[Region]:
        """Removes all regions that no call has, and returns them."""
        with self._lock:
            idle, self._idle = self._idle, []
        for region in idle:
            self.remove(region)
        return idle


def _make(size: int) -> Region | None:
    try:
        memory = SharedMemory(f"tubeletclient_{os.getpid()}_{secrets.token_hex(8)}", create=True, size=size)
    except OSError:
        return None
    try:
        # The file has its size, but no memory yet: where that runs out, writing would end the process.
        with (_FOLDER / memory.name).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError:
        Region(memory).remove()
        return None
    return Region(memory)


def _rounded_up(size: int) -> int:
    step = max(LEAST_BYTES, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step


def _remove_all(regions: set[Region], pid: int) -> None:
    if os.getpid() == pid:  # not in a child that inherited them
        for region in list(regions):
            region.remove()
