"""A real server of one bundle, for as long as it is measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from full_size import FOLDER, TUBELET

from tubelet.spec.engine import Precision

__all__ = ["Server", "serving"]


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready."""

    pid: int
    """Of the supervisor."""
    addresses: dict[str, Any]
    """``http``, ``grpc`` and ``metrics``."""
    seconds_to_ready: float

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Lets the supervisor sleep, whose canary takes up to a twentieth of the machine, from whatever is measured."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def metrics(self, model: str) -> dict[str, float]:
        """Counters of a model, those of tubelet's own."""
        with urlopen(self.addresses["metrics"]) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith("tubelet_")]
        of_model = [line for line in lines if f'model="{model}"' in line]
        return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in of_model}


@contextmanager
def serving(bundle: Path, *, precision: Precision) -> Iterator[Server]:
    """Writes the bundle's repository, and serves it by OpenVINO until the block ends, verified or not."""
    repository = FOLDER / "repositories" / f"{bundle.name}_{precision}"
    how = ["--target", "cpu", "--engine", "openvino", "--precision", precision, "--mode", "latency"]
    subprocess.run([TUBELET, "repository", bundle, *how, "--out", repository], check=True, capture_output=True)
    ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
    command: list[str | Path] = [TUBELET, "serve", "--json", "--allow-unverified", "--repository", repository, *ports]
    began = time.monotonic()
    events = FOLDER / f"{bundle.name}.events"
    with events.open("w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as supervisor:
        try:
            yield Server(supervisor.pid, _wait_until_ready(supervisor, events), time.monotonic() - began)
        finally:
            supervisor.terminate()


def _wait_until_ready(supervisor: subprocess.Popen[bytes], events: Path) -> dict[str, Any]:
    """The event that says so, with the addresses."""
    while supervisor.poll() is None:
        for line in events.read_text().splitlines():
            if line.startswith('{"event": "ready"'):
                found: dict[str, Any] = json.loads(line)
                return found
        time.sleep(0.05)
    raise RuntimeError(f"the server has ended: {events.read_text()}")
