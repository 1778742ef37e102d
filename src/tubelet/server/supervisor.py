"""Starts tritonserver, says when it is ready, and brings it back when it or one of its backends is lost.

Triton 2.51 never restarts a Python backend that died, and goes on saying that it is ready. The supervisor sees the
death of any of its processes at once (pidfd), sends a tiny video through every model every few seconds, and restarts
the whole server when something is wrong: seconds, and nothing of the old one is left.
"""

from __future__ import annotations

import os
import secrets
import select
import selectors
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from tubelet.server import shm
from tubelet.server.card import memory_pools
from tubelet.server.health import Probe
from tubelet.server.options import ServeOptions, check_options, choose_ports, start_timeout_s
from tubelet.server.process import TritonProcess, open_pidfd
from tubelet.server.rounds import Rounds
from tubelet.server.speaker import Speaker
from tubelet.server.triton import find_tritonserver, server_arguments
from tubelet.spec.errors import MachineError
from tubelet.spec.repository import RepositoryIndex, ServedModel

__all__ = ["ServeOptions", "serve"]

STOP_GRACE_S = 35.0
MAX_FAILED_STARTS = 5
"""Starts in a row that do not get ready: it will not get better by itself."""
RESTART_WINDOW_S, MAX_PAUSE_S = 60.0, 30.0
"""Restarts within the window lengthen the pause before the next one, up to the most."""

PROCESSES_PER_MODEL = 8
"""Python backends of a model, and some growth of their shared memory."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(options: ServeOptions) -> int:
    """Serves a repository until a signal comes or the command has ended.

    Returns:
        The exit code: the command's when it ends by itself, 0 after a signal.

    Raises:
        MachineError: no tritonserver, too little shared memory, a port in use, a processor or a package that the
            repository needs and is not there, or a server that does not start.
        ContractError: the repository is not one.
        ExportMismatchError: ``unverified``, as `tubelet.server.options.check_options`.
    """
    with ExitStack() as stack:
        return Supervisor(options, stack).run()


class Supervisor:
    """One server's life; see the module. Everything it opens is closed by the stack that it is given."""

    def __init__(self, options: ServeOptions, stack: ExitStack) -> None:
        self._options = options
        self._triton = find_tritonserver()
        self._index = RepositoryIndex.load(options.repository)
        check_options(options, self._triton, self._index)
        self._ports = choose_ports(options)
        self._probe = Probe(options.address, self._ports.http, self._ports.metrics)
        self._speaker = Speaker(is_json=options.json_events, to_stderr=bool(options.command))
        self._prefix = shm.region_prefix()
        self._admin_key = secrets.token_urlsafe(32)
        shm.remove_stale()
        shm.check_free(sum(model.shm_bytes for model in self._index.models) * PROCESSES_PER_MODEL)
        folder = tempfile.TemporaryDirectory(prefix=self._prefix, dir=shm.temporary_folder())
        self._folder = Path(stack.enter_context(folder))
        # Triton starts its backends through a shell and does not quote: the repository gets a plain name.
        self._repository = self._folder / "repository"
        self._repository.symlink_to(options.repository.resolve())
        self._backends = self._triton.assemble_backends(self._folder)
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._wakeups, self._waker = socket.socketpair()
        stack.callback(self._wakeups.close)
        stack.callback(self._waker.close)
        self._selector.register(self._wakeups, selectors.EVENT_READ, "wakeup")
        self._waker.setblocking(False)
        self._pidfds: list[int] = []
        self._process: TritonProcess | None = None
        self._serving: TritonProcess | None = None
        self._command: subprocess.Popen[bytes] | None = None
        self._restarts: list[float] = []
        self._illness: str | None = None
        self._stopping = threading.Event()
        stack.callback(self._clean_up)

    def run(self) -> int:
        """The life of the server, from start to stop; the exit code."""
        previous = [(number, signal.signal(number, lambda *_: None)) for number in STOP_SIGNALS]
        signal.set_wakeup_fd(self._waker.fileno())
        try:
            if not self._first_start():
                return 0
            self._start_command()
            rounds = Rounds(self._probe, self._index.models, serving=lambda: self._serving, tell=self._fell_ill)
            rounds.start(self._stopping)
            return self._watch()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in previous:
                signal.signal(number, handler)

    def _watch(self) -> int:
        """Waits for the next thing to happen until one of them is the end."""
        while True:
            happened = {key.data for key, _ in self._selector.select()}
            if "wakeup" in happened and self._read_wakeup():
                return self._stop()
            if "command" in happened and self._command is not None:
                self._stop()
                code = self._command.wait()
                return code if code >= 0 else 128 - code  # ended by a signal, as shells say it
            lost = next((data for data in happened if data in ("tritonserver", "a Python backend")), self._illness)
            if lost and not self._restart(lost):
                return 0

    def _first_start(self) -> bool:
        """Starts the first server; one that crashes meanwhile is followed by others, one that gives up is not.

        Triton 2.51 has been seen to abort, though seldom, while its backends start (boost's ``lock_exception``).

        Raises:
            MachineError: ``start_failed``, as `_start` and `_restart`.
        """
        try:
            return self._start()
        except MachineError as exc:
            if self._process is None or not self._process.has_crashed:
                raise
            return self._restart(_while_it_started(exc))

    def _start(self) -> bool:
        """Starts a server and waits until every model answers; False when a signal came first.

        Raises:
            MachineError: ``start_failed``, with the end of the server's log.
        """
        started = time.monotonic()
        patience_s = start_timeout_s(self._index)
        arguments = server_arguments(
            self._triton,
            repository=self._repository,
            backends=self._backends,
            models=[name for model in self._index.models for name in model.entries],
            address=self._options.address,
            ports=self._ports,
            admin_key=self._admin_key,
            shm_prefix=self._prefix,
            shm_bytes=max(model.shm_bytes for model in self._index.models),
            pools=memory_pools(self._index),
            host_code=any(model.host_code for model in self._index.models),
            allow_shared_memory=self._options.allow_shared_memory,
        )
        environment = self._triton.environment({**os.environ, shm.PREFIX_VARIABLE: self._prefix})
        self._process = TritonProcess(arguments, environment)
        self._watch_process(self._process.pid, "tritonserver")
        while not self._probe.is_ready():
            happened = {key.data for key, _ in self._selector.select(timeout=0.1)}
            if "wakeup" in happened and self._read_wakeup():
                self._stop()
                return False
            if self._process.has_ended or time.monotonic() - started > patience_s:
                raise MachineError("start_failed", f"tritonserver did not start; it said:\n{self._process.last_words}")
        for pid in self._process.stub_pids():
            self._watch_process(pid, "a Python backend")
        for model in self._index.models:
            if not self._first_answer(model, by=started + patience_s):
                return False
        self._serving = self._process
        models = [model.name for model in self._index.models]
        self._speaker.ready(models, self._options.address, self._ports, seconds=time.monotonic() - started)
        return True

    def _first_answer(self, model: ServedModel, *, by: float) -> bool:
        """Waits for a model's first answer; False when a signal came meanwhile.

        Raises:
            MachineError: ``start_failed``: the model fails, or has given no answer by then.
        """
        patience_s = 2.0
        while (health := self._probe.canary(model, timeout_s=patience_s)) == "busy" and time.monotonic() < by:
            patience_s *= 2  # a large model needs seconds for a view, and answers the question that was given up, too
            happened = {key.data for key, _ in self._selector.select(timeout=0)}
            if "wakeup" in happened and self._read_wakeup():
                self._stop()
                return False
        if health != "well" and self._process is not None:
            raise MachineError("start_failed", f"{model.name} does not answer:\n{self._process.last_words}")
        return True

    def _restart(self, lost: str) -> bool:
        """Ends what is left of the server and starts another; False when a signal came meanwhile.

        A server that was once ready is brought back however often it is lost, after ever longer pauses.

        Raises:
            MachineError: ``start_failed``, as often as `MAX_FAILED_STARTS` in a row.
        """
        for attempt in range(1, MAX_FAILED_STARTS + 1):
            self._serving = self._illness = None
            self._speaker.emit("lost", f"lost {lost}; starting again", reason=lost)
            self._end_process()
            if not self._pause():
                return False
            try:
                return self._start()
            except MachineError as exc:
                if attempt == MAX_FAILED_STARTS:
                    raise
                lost = _while_it_started(exc)
        return False

    def _pause(self) -> bool:
        """Waits before a restart: not at all after a quiet minute, else longer each time; False on a signal."""
        now = time.monotonic()
        recent = [moment for moment in self._restarts if now - moment < RESTART_WINDOW_S]
        self._restarts = [*recent, now]
        pause_s = min(2.0 ** (len(recent) - 1), MAX_PAUSE_S) if recent else 0.0
        readable, _, _ = select.select([self._wakeups], [], [], pause_s)
        if readable and self._read_wakeup():
            self._stop()
            return False
        return True

    def _stop(self) -> int:
        """Lets the server finish; a second signal while it does so ends it at once."""
        self._stopping.set()
        self._serving = None
        self._speaker.emit("stopping", "stopping")
        if self._command is not None and self._command.poll() is None:
            self._command.terminate()
        for number in STOP_SIGNALS:
            signal.signal(number, _exit_now)
        if self._process is not None:
            self._process.terminate(grace_s=STOP_GRACE_S)
        self._speaker.emit("stopped", "stopped")
        return 0

    def _fell_ill(self, asked: object, model: ServedModel) -> None:
        """Hears, from another thread, of a model that does not answer on the server ``asked``."""
        # A server that went away meanwhile has been seen to do so by somebody else.
        if asked is self._serving and self._illness is None:
            self._illness = f"the model {model.name}: its canary got no answer"
            self._wake()

    def _start_command(self) -> None:
        if not self._options.command:
            return
        address = f"{self._options.address}:{self._ports.grpc}"
        self._command = subprocess.Popen(self._options.command, env={**os.environ, "TUBELET_URL": address})
        self._watch_process(self._command.pid, "command")

    def _watch_process(self, pid: int, name: str) -> None:
        fd = open_pidfd(pid)
        if fd is not None:
            self._selector.register(fd, selectors.EVENT_READ, name)
            if name != "command":
                self._pidfds.append(fd)

    def _end_process(self) -> None:
        for fd in self._pidfds:
            self._selector.unregister(fd)
            os.close(fd)
        self._pidfds.clear()
        if self._process is not None:
            self._process.kill()
            self._process = None
        shm.remove_regions(self._prefix)

    def _clean_up(self) -> None:
        self._stopping.set()
        self._end_process()
        if self._command is not None and self._command.poll() is None:
            self._command.kill()

    def _wake(self) -> None:
        self._waker.send(b"\0")

    def _read_wakeup(self) -> bool:
        """Empties the wake-up socket; True when a signal was in it."""
        return any(self._wakeups.recv(64))


def _while_it_started(error: MachineError) -> str:
    return f"the server while it started ({error.message.splitlines()[0]})"


def _exit_now(number: int, _: object) -> None:
    raise SystemExit(128 + number)
