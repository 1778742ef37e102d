"""`tubelet serve` in a process of its own, as its users start it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tubelet.clients import Retries, VideoClassifier

ROOT = Path(__file__).parents[2]
TUBELET = Path(sys.executable).parent / "tubelet"
SHM = Path("/dev/shm")
END_WITH_US = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
"""Tests that are killed leave no server behind."""


@dataclass
class Serving:
    """`tubelet serve --json` in a process of its own."""

    repository: Path
    arguments: Sequence[str] = ()
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        ports = [f"--{kind}-port=0" for kind in ("http", "grpc", "metrics")]
        self.process = subprocess.Popen(
            [*END_WITH_US, TUBELET, "serve", "--json", "--repository", self.repository, *ports, *self.arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "no_proxy": "*"},
        )
        try:
            self.ready = self.wait_for("ready")
        except BaseException:
            self.process.kill()
            self.wait()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.discard()

    def wait_for(self, event: str) -> dict[str, Any]:
        """Reads events until ``event`` comes; blocks, and fails when the process ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        raise AssertionError(f"no {event!r} before the end (exit {self.process.wait()}): {self.events}")

    def classifier(self, **options: Any) -> VideoClassifier:
        """One that tries once, unless told otherwise: most tests want to see what a server answers."""
        return VideoClassifier(self.ready["grpc"], **{"retries": Retries(attempts=1), **options})

    def processes(self, name: str) -> list[int]:
        """Process ids of tritonserver or of its Python stubs, whose command lines hold ``name``."""
        found = []
        children = {self.process.pid}
        for stat in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
            try:
                parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
                command = (stat.parent / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if parent in children:
                pid = int(stat.parent.name)
                children.add(pid)
                if name in command:
                    found.append(pid)
        return found

    def regions(self) -> list[Path]:
        """What the server has in shared memory."""
        return list(SHM.glob(f"tubelet_{self.process.pid}_*"))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        assert self.process.stdout is not None
        self.events += [json.loads(line) for line in self.process.stdout]
        self.process.stdout.close()
        return self.process.wait()

    def discard(self) -> None:
        """Ends a server that a test has not ended itself; whatever it was through, it leaves nothing behind."""
        if self.process.poll() is None:
            assert self.stop() == 0
        assert self.regions() == []
