"""Work for which nobody waits any more stops within a batch of units, in every step; seen from outside, in Triton.

The steps under test stand before a gate: they say that they have come, and go on when the test lets them. So each takes
exactly as long as the test wants, whatever the machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest
from numpy.typing import NDArray
from real_server import Serving
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tubelet.export.repository import write_repository
from tubelet.spec.errors import DeadlineError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Manifest

pytestmark = pytest.mark.needs_triton

DATA_TYPES = {"O": "BYTES", "f": "FP32", "i": "INT32"}
NUM_FRAMES = 400
DEADLINE_S = 3.0
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


PATIENCE_S = 60.0
"""For what never comes to a gate, such as a request that was refused on its way."""


def raw(array: NDArray[Any]) -> bytes:
    """A tensor as it travels; a BYTES element begins with its length."""
    return len(array[0]).to_bytes(4, "little") + array[0] if array.dtype == object else array.tobytes()


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
        while size not in self.read():
            pass

    def read(self) -> list[int]:
        """Sizes that came since the last look, one at least."""
        if os.get_blocking(self.arrivals) and not select.select([self.arrivals], [], [], PATIENCE_S)[0]:
            raise TimeoutError(f"nothing came to {self.step}")
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

    def post(self, model: str, tensors: dict[str, NDArray[Any]], parameters: dict[str, Any]) -> HTTPConnection:
        """Sends a request over HTTP; the answer is not read yet."""
        inputs, body = [], b""
        for name, array in tensors.items():
            data = raw(array)
            size, datatype = {"binary_data_size": len(data)}, DATA_TYPES[array.dtype.kind]
            inputs.append({"name": name, "shape": array.shape, "datatype": datatype, "parameters": size})
            body += data
        head = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
        connection = HTTPConnection(self.http, timeout=DEADLINE_S)
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


CHAINS = [
    ("motion_vtn", "sample", "units", 0),
    ("motion_vtn", "encoder", "encoder", 1),
    ("motion_vtn", "temporal", "average", None),
    ("motion_vtn_chunked", "encoder", "chunks", 1),
    ("motion_vtn_features", "temporal", "average", 0),
]
"""A way in, the step in which the caller's time ends, the step that refuses, and batches that may be encoded by then;
None: all."""


def tensors_of(gated: Gated, way: str) -> dict[str, NDArray[Any]]:
    if not way.endswith("features"):
        return {"VIDEO": np.array([gated.video], dtype=np.object_)}
    positions = np.arange(NUM_FRAMES, dtype=np.int32)[None]
    return {"FEATURES": np.zeros((1, NUM_FRAMES, 96), np.float32), "POSITIONS": positions}


def parameters_of(way: str) -> dict[str, Any]:
    return {} if way.endswith("features") else {"protocol": f"full{NUM_FRAMES}"}


@dataclass
class Watch:
    """What the server does for one request while a gate is closed and after it."""

    gated: Gated
    step: str
    refuses: str
    code: str

    def __enter__(self) -> Watch:
        self.errors = self.gated.errors(self.refuses, self.code)
        self.encoded = self.gated.counter("tubelet_units_encoded_total")
        for gate in self.gated.gates.values():
            gate.so_far()  # what earlier requests have left
        self.gated.gates[self.step].close()
        return self

    def wait_for_arrival(self) -> None:
        size = self.gated.largest_batch if self.step == "encoder" else NUM_FRAMES
        self.gated.gates[self.step].wait_for(size)

    def assert_refused(self, most_batches: int | None) -> None:
        """Opens the gate and waits for the error; a canary's few units may be among what was encoded."""
        batch = self.gated.largest_batch
        self.gated.gates[self.step].open()
        while self.gated.errors(self.refuses, self.code) == self.errors:
            pass
        grown = self.gated.counter("tubelet_units_encoded_total") - self.encoded
        if most_batches is not None:
            assert batch not in self.gated.gates["encoder"].so_far()
            assert most_batches * batch <= grown < (most_batches + 1) * batch

    def __exit__(self, *_: object) -> None:
        self.gated.gates[self.step].open()


@pytest.mark.parametrize(("way", "step", "refuses", "most_batches"), CHAINS)
def test_no_step_works_on_after_the_deadline(
    gated: Gated, way: str, step: str, refuses: str, most_batches: int | None
) -> None:
    """Over HTTP, where a caller that goes away tells the server nothing."""
    with Watch(gated, step, refuses, "deadline_exceeded") as watch:
        parameters = parameters_of(way) | {"deadline_ms": DEADLINE_S * 1000}
        connection = gated.post(way, tensors_of(gated, way), parameters)
        watch.wait_for_arrival()
        with pytest.raises(TimeoutError):  # as long as the deadline, which began before
            connection.getresponse()
        connection.close()
        watch.assert_refused(most_batches)


@pytest.mark.parametrize("chunked", [False, True])
def test_the_client_sends_its_deadline(gated: Gated, chunked: bool) -> None:
    refuses = "chunks" if chunked else "encoder"
    with (
        Watch(gated, "encoder", refuses, "deadline_exceeded") as watch,
        gated.serving.classifier() as classifier,
        ThreadPoolExecutor(1) as pool,
    ):
        call = pool.submit(classifier.classify, gated.video, protocol="full400", deadline_s=DEADLINE_S, chunked=chunked)
        watch.wait_for_arrival()
        assert isinstance(call.exception(), DeadlineError)
        watch.assert_refused(1)


@pytest.mark.parametrize(
    ("way", "step", "refuses", "most_batches"),
    [
        ("motion_vtn", "sample", "units", 0),
        ("motion_vtn", "encoder", "temporal", None),
        ("motion_vtn_chunked", "encoder", "temporal", None),
        ("motion_vtn_features", "temporal", "average", 0),
    ],
)
def test_the_step_after_a_cancelled_call_refuses(
    gated: Gated, way: str, step: str, refuses: str, most_batches: int | None
) -> None:
    """Of the step that runs Triton 2.51 tells nothing; see docs/adr/0016-ways-in.md."""
    with (
        Watch(gated, step, refuses, "cancelled") as watch,
        grpc.insecure_channel(gated.serving.ready["grpc"]) as channel,
    ):
        triton = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = triton.ModelInfer.future(request_of(way, tensors_of(gated, way)))
        watch.wait_for_arrival()
        call.cancel()
        for _ in range(20):  # behind the cancel on the same connection
            assert triton.ServerLive(service_pb2.ServerLiveRequest()).live
        watch.assert_refused(most_batches)


def request_of(way: str, tensors: dict[str, NDArray[Any]]) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=way)
    for name, value in parameters_of(way).items():
        request.parameters[name].string_param = value
    for name, array in tensors.items():
        request.inputs.add(name=name, datatype=DATA_TYPES[array.dtype.kind], shape=array.shape)
        request.raw_input_contents.append(raw(array))
    return request
