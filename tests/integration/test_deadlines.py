"""Work for which nobody waits any more stops within a batch of units, in every step; seen from outside, in Triton.

The steps under test stand before a gate: they say that they have come, and go on when the test lets them. So each takes
exactly as long as the test wants, whatever the machine.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
import tritonclient.grpc
from real_server import Serving

from tubelet.export.repository import write_repository
from tubelet.spec.errors import DeadlineError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Manifest

pytestmark = pytest.mark.needs_triton

NUM_FRAMES = 400
DEADLINE_S = 4.0
"""Time in which a request reaches its gate on a busy machine."""

SHIM = '''
import fcntl
from pathlib import Path

from tubelet.server.steps.{step} import TritonPythonModel as Step

FOLDER = Path({folder!r})


def stand_at_gate(size):
    """Says how much work has come, and waits until the gate is open."""
    with (FOLDER / "{step}.arrivals").open("w") as arrivals:
        arrivals.write(f"{{size}}\\n")
    with (FOLDER / "{step}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


class GatedEngine:
    def __init__(self, engine):
        self.engine = engine

    def run(self, feeds):
        stand_at_gate(len(feeds["UNITS"]) if "UNITS" in feeds else feeds["CLIP_UNITS"].size)
        return self.engine.run(feeds)


class TritonPythonModel(Step):
    def open(self):
        super().open()
        if hasattr(self, "engine"):
            self.engine = GatedEngine(self.engine)

    def run(self, call):
        outputs = super().run(call)
        if not hasattr(self, "engine"):
            stand_at_gate(len(outputs["UNIT_FRAMES"]))
        return outputs
'''


@dataclass
class Gate:
    """The gate of one step; open unless it was closed."""

    folder: Path
    step: str
    text: str = ""

    def __post_init__(self) -> None:
        arrivals = self.folder / f"{self.step}.arrivals"
        os.mkfifo(arrivals)
        # Open for writing too, so that who arrives never waits for a reader.
        self.arrivals = os.open(arrivals, os.O_RDWR)
        self.lock = os.open(self.folder / f"{self.step}.lock", os.O_RDWR | os.O_CREAT)

    def close(self) -> None:
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def open(self) -> None:
        fcntl.flock(self.lock, fcntl.LOCK_UN)

    def wait_for(self, size: int) -> None:
        """Returns when work of this size has come; what came before it is forgotten."""
        while size not in (sizes := self.read()):
            pass
        assert sizes[-1] == size

    def read(self) -> list[int]:
        """Sizes that came since the last look, one at least."""
        self.text += os.read(self.arrivals, 65536).decode()
        *lines, self.text = self.text.split("\n")
        return [int(line) for line in lines]

    def so_far(self) -> list[int]:
        """As `read`, or none."""
        os.set_blocking(self.arrivals, False)
        try:
            return self.read()
        except BlockingIOError:
            return []
        finally:
            os.set_blocking(self.arrivals, True)

    def discard(self) -> None:
        os.close(self.arrivals)
        os.close(self.lock)


@dataclass
class Gated:
    """A server whose steps stand before gates."""

    serving: Serving
    gates: dict[str, Gate]
    video: bytes
    largest_batch: int
    http: str = field(init=False)

    def __post_init__(self) -> None:
        self.http = urlsplit(self.serving.ready["http"]).netloc

    def counter(self, name: str, **labels: str) -> float:
        with urlopen(self.serving.ready["metrics"]) as answer:
            lines = answer.read().decode().splitlines()
        wanted = ",".join(f'{key}="{value}"' for key, value in sorted({**labels, "model": "motion_vtn"}.items()))
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{{wanted}}}"))

    def errors(self, step: str, code: str) -> float:
        return self.counter("tubelet_errors_total", step=step, code=code)

    def post(self, model: str, tensors: dict[str, np.ndarray], parameters: dict[str, Any]) -> http.client.HTTPConnection:
        """Sends a request over HTTP; the answer is not read yet."""
        kinds = {"O": "BYTES", "f": "FP32", "i": "INT32"}
        inputs, body = [], b""
        for name, array in tensors.items():
            data = len(array[0]).to_bytes(4, "little") + array[0] if array.dtype == object else array.tobytes()
            inputs.append({"name": name, "shape": array.shape, "datatype": kinds[array.dtype.kind]})
            inputs[-1]["parameters"] = {"binary_data_size": len(data)}
            body += data
        head = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
        connection = http.client.HTTPConnection(self.http, timeout=DEADLINE_S)
        connection.request(
            "POST", f"/v2/models/{model}/infer", head + body, {"Inference-Header-Content-Length": str(len(head))}
        )
        return connection


@pytest.fixture(scope="module")
def gated(
    demo_bundle: Callable[[str], Path], make_video: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gated]:
    bundle, repository, folder = demo_bundle("motion_vtn"), tmp_path_factory.mktemp("r"), tmp_path_factory.mktemp("g")
    write_repository([bundle], target="cpu", out=repository, limits=Limits())
    gates = {}
    for step in ("sample", "encoder", "temporal"):
        gates[step] = Gate(folder, step)
        shim = repository / f"motion_vtn_{step}" / "1" / "model.py"
        shim.write_text(SHIM.format(step=step, folder=str(folder)))
    serving = Serving(repository)
    video = make_video(NUM_FRAMES, size=(96, 64))
    yield Gated(serving, gates, video, Manifest.load(bundle).build.largest_batch)
    serving.discard()
    for gate in gates.values():
        gate.discard()


def of_video(gated: Gated) -> dict[str, np.ndarray]:
    return {"VIDEO": np.array([gated.video], dtype=np.object_)}


def of_features(_: Gated) -> dict[str, np.ndarray]:
    return {
        "FEATURES": np.zeros((1, NUM_FRAMES, 96), np.float32),
        "POSITIONS": np.arange(NUM_FRAMES, dtype=np.int32)[None],
    }


@pytest.mark.parametrize(
    ("way", "step", "refuses"),
    [
        ("motion_vtn", "sample", "units"),
        ("motion_vtn", "encoder", "encoder"),
        ("motion_vtn", "temporal", "average"),
        ("motion_vtn_chunked", "encoder", "chunks"),
        ("motion_vtn_features", "temporal", "average"),
    ],
)
def test_no_step_works_on_after_the_deadline(gated: Gated, way: str, step: str, refuses: str) -> None:
    """Over HTTP, where a caller that goes away tells the server nothing."""
    gate, batch = gated.gates[step], gated.largest_batch
    tensors = of_features(gated) if way.endswith("features") else of_video(gated)
    parameters: dict[str, Any] = {"deadline_ms": DEADLINE_S * 1000}
    if not way.endswith("features"):
        parameters["protocol"] = f"full{NUM_FRAMES}"
    before, encoded = gated.errors(refuses, "deadline_exceeded"), gated.counter("tubelet_units_encoded_total")
    gated.gates["encoder"].so_far()
    gate.close()
    connection = gated.post(way, tensors, parameters)
    gate.wait_for(batch if step == "encoder" else NUM_FRAMES)
    with pytest.raises(TimeoutError):  # the deadline began before this wait
        connection.getresponse()
    connection.close()
    gate.open()
    while gated.errors(refuses, "deadline_exceeded") == before:
        pass
    runs = gated.gates["encoder"].so_far()
    print(way, step, runs, gated.counter("tubelet_units_encoded_total") - encoded)
