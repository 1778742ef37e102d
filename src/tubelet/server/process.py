"""One tritonserver and the processes that it starts, as a group that ends together."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["TritonProcess", "open_pidfd"]

_NOISE = ("CUDA driver version is insufficient", "CudaDriverHelper", "pinned", "Signal (15) received")
"""What Triton says on every machine without a GPU, and at every ordinary end."""

_STUB = b"triton_python_backend_stub"
_PR_SET_PDEATHSIG = 1


class TritonProcess:
    """A running tritonserver; its log goes to our standard error, line by line."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._log: deque[str] = deque(maxlen=30)
        self._process = subprocess.Popen(
            arguments,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a group of its own, so that its stubs can be ended with it
            preexec_fn=_die_with_parent,
        )
        self._reader = threading.Thread(target=self._forward_log, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def has_crashed(self) -> bool:
        """Whether a signal ended it: a server that ends by itself has said why, and will say it again."""
        code = self._process.poll()
        return code is not None and code < 0

    @property
    def last_words(self) -> str:
        """The end of the log, for the message about a start that failed."""
        self._reader.join(timeout=2.0)
        return "\n".join(line for line in self._log if line.strip() and not line.startswith(("+", "|")))

    def stub_pids(self) -> list[int]:
        """The Python backends, one process for each instance of a step."""
        pids = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(folder.name)) == self.pid and _STUB in (folder / "cmdline").read_bytes():
                    pids.append(int(folder.name))
            except OSError:  # gone between two looks
                continue
        return pids

    def terminate(self, *, grace_s: float) -> None:
        """Lets every step finish what it runs, at the most for ``grace_s``; then ends the whole group.

        Triton refuses the next step of an ensemble at once, so most requests in flight fail with ``backend_lost``.
        """
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=grace_s)
        self.kill()

    def kill(self) -> None:
        """Ends the server and all stubs at once, and waits until the server is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        threading.Thread(target=_reap, args=(self.pid,), daemon=True).start()
        self._reader.join(timeout=2.0)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()

    def _forward_log(self) -> None:
        if self._process.stdout is None:
            return
        for line in self._process.stdout:
            if not any(noise in line for noise in _NOISE):
                self._log.append(line.rstrip("\n"))
                with suppress(OSError):  # nobody reads any more; a log that is not emptied would stop the server
                    sys.stderr.write(line)


def open_pidfd(pid: int) -> int | None:
    """A file descriptor that becomes readable when the process ends; None where it has ended already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _reap(group: int) -> None:
    """Takes note of the end of stubs that have become our children: a container's first process inherits them."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)


def _die_with_parent() -> None:
    """Has the kernel end the server should the supervisor itself be killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
