"""Asks a running Triton, over its own HTTP, whether it really answers."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tubelet.preprocess.canary import canary_video
from tubelet.spec.repository import RepositoryIndex, ServedModel

__all__ = ["Health", "Patient", "Probe", "is_serving"]

CANARY_TIMEOUT_S = 10.0

Health = Literal["well", "busy", "ill"]

_BUSY = (b"maximum queue size", b"timeout expired", b"overloaded: ")
"""In what is said of a request that came to a server with too much to do, by Triton and by the step `sample`."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Checks of one server."""

    address: str
    http_port: int
    metrics_port: int | None = None
    """Needed for `metrics` and `progress` only."""

    def is_live(self) -> bool:
        """Whether there is a Triton that answers, whatever its models do."""
        return self._says("live")

    def is_ready(self) -> bool:
        """Whether Triton itself says that it is ready; it says so with dead backends, too."""
        return self._says("ready")

    def canary(self, model: ServedModel, *, timeout_s: float) -> Health:
        """Sends a tiny real video through a model, by the protocol that asks least of it.

        ``busy``: too much to do, or the answer does not come in time; `progress` tells whether others get theirs.
        """
        head, body = _request_body(canary_video(), protocol=model.canary_protocol)
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        path = f"/v2/models/{model.name}/infer"
        try:
            status, body = self._request("POST", path, head + body, headers, timeout_s=timeout_s)
        except TimeoutError:
            return "busy"
        except OSError:
            return "ill"
        if status == http.client.OK:
            return "well"
        return "busy" if any(words in body for words in _BUSY) else "ill"

    def progress(self, model: ServedModel) -> float | None:
        """A number that grows while a model gets work done: requests answered, units encoded; None: no word of it."""
        try:
            metrics = self.metrics()
        except OSError:
            return None
        counters = ("nv_inference_request_success", "tubelet_units_encoded_total")
        signs = tuple(f'{counter}{{model="{name}"' for counter in counters for name in model.works_as)
        lines = (line for line in metrics.splitlines() if line.startswith(signs))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def metrics(self) -> str:
        """The text of the metrics page.

        Raises:
            OSError: it does not come; ConnectionRefusedError: nobody listens.
        """
        return self._request("GET", "/metrics", port=self.metrics_port, timeout_s=5.0)[1].decode()

    def _says(self, state: str) -> bool:
        try:
            return self._request("GET", f"/v2/health/{state}", timeout_s=2.0)[0] == http.client.OK
        except OSError:
            return False

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        timeout_s: float,
        port: int | None = None,
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, port or self.http_port, timeout=timeout_s)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as exc:
            raise ConnectionError(str(exc)) from exc
        finally:
            connection.close()


def _request_body(video: bytes, *, protocol: str) -> tuple[bytes, bytes]:
    """KServe's binary form of a request: a JSON header, then the tensor; a BYTES element begins with its length."""
    tensor = len(video).to_bytes(4, "little") + video
    parameters = {"binary_data_size": len(tensor)}
    header = {
        "inputs": [{"name": "VIDEO", "shape": [1], "datatype": "BYTES", "parameters": parameters}],
        "outputs": [{"name": "LOGITS"}],
        "parameters": {"protocol": protocol},
    }
    return json.dumps(header).encode(), tensor


@dataclass(slots=True)
class Patient:
    """A model under observation: tells one that works hard from one that is stuck."""

    probe: Probe
    model: ServedModel
    progress: float = 0.0
    moved_at: float = field(default_factory=time.monotonic)

    def is_ill(self) -> bool:
        """Sends a canary; True when it fails, or is late while nothing else gets done either."""
        health = self.probe.canary(self.model, timeout_s=CANARY_TIMEOUT_S)
        progress, now = self.probe.progress(self.model), time.monotonic()
        if health == "well" or (progress is not None and progress != self.progress):
            self.progress, self.moved_at = progress or 0.0, now
        # A busy server still tells its metrics.
        is_stuck = progress is None or now - self.moved_at > self.model.max_silence_s
        return health == "ill" or (health == "busy" and is_stuck)


def is_serving(probe: Probe, models: Sequence[ServedModel], *, timeout_s: float) -> bool:
    """Sends the canary through all models at once: whether none of them is ill, on a server that still answers.

    A model that works hard and lets the canary wait is well: were it not, a crowd would take a service away.
    """
    with ThreadPoolExecutor(max_workers=len(models)) as pool:
        healths = list(pool.map(lambda model: probe.canary(model, timeout_s=timeout_s), models))
    return "ill" not in healths and ("busy" not in healths or probe.is_ready())


def main() -> int:
    """Container health check: sends the canary through every model of the repository on this machine."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--timeout-s", type=float, default=CANARY_TIMEOUT_S, help="how long an answer is waited for")
    parser.add_argument("--live", action="store_true", help="only ask whether Triton is there, and no model")
    arguments = parser.parse_args()
    probe = Probe("127.0.0.1", arguments.http_port)
    if arguments.live:
        return int(not probe.is_live())
    models = RepositoryIndex.load(arguments.repository).models
    return int(not is_serving(probe, models, timeout_s=arguments.timeout_s))


if __name__ == "__main__":
    sys.exit(main())
