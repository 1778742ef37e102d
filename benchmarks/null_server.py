"""A null model in a real Triton: a demo model's interface, and no work behind it.

What remains of a request's time is what Triton, the wire and whoever asks add. Triton is the one of `tubelet serve`,
with its arguments; a supervisor is not there, so nothing else asks.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tubelet.server import shm
from tubelet.server.health import Probe
from tubelet.server.options import ServeOptions, choose_ports
from tubelet.server.process import TritonProcess
from tubelet.server.triton import find_tritonserver, server_arguments
from tubelet.spec.manifest import Contract, Manifest
from tubelet.spec.strict import canonical_json

__all__ = ["MODEL", "NullServer", "null_serving"]

MODEL = "null"
STEP = "null_answer"
REPOSITORY = Path("model_repository")
BUNDLE = Path("bundles/motion")
SHM_BYTES = 1 << 20
START_S, STARTS = 60.0, 5


@dataclass(frozen=True, slots=True)
class NullServer:
    """One that is ready."""

    process: TritonProcess
    grpc: str
    """``HOST:PORT``."""
    http: str
    """Here and below: a whole address."""
    metrics: str

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops tritonserver (SIGSTOP) for as long as the block lasts: connections stay, nothing is answered."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def null_serving(*, delay_ms: float = 0.0, instances: int = 1) -> Iterator[NullServer]:
    """Serves the null model on free ports of 127.0.0.1 until the block ends.

    Args:
        delay_ms: how long each request is slept on.
        instances: so many can sleep at a time.

    Raises:
        RuntimeError: Triton did not start.
    """
    triton, prefix = find_tritonserver(), shm.region_prefix()
    with TemporaryDirectory(prefix=prefix, dir=shm.temporary_folder()) as name:
        folder = Path(name)
        repository = folder / "repository"
        write_null_model(repository, delay_ms=delay_ms, instances=instances)
        ports = choose_ports(ServeOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0))
        arguments = server_arguments(
            triton,
            repository=repository,
            backends=triton.assemble_backends(folder),
            models=[MODEL],
            address="127.0.0.1",
            ports=ports,
            admin_key=secrets.token_urlsafe(32),
            shm_prefix=prefix,
            shm_bytes=SHM_BYTES,
        )
        process = _start(
            lambda: TritonProcess(arguments, triton.environment(os.environ)), Probe("127.0.0.1", ports.http)
        )
        try:
            yield NullServer(
                process=process,
                grpc=f"127.0.0.1:{ports.grpc}",
                http=f"http://127.0.0.1:{ports.http}",
                metrics=f"http://127.0.0.1:{ports.metrics}/metrics",
            )
        finally:
            process.terminate(grace_s=10.0)
            shm.remove_regions(prefix)


def write_null_model(repository: Path, *, delay_ms: float, instances: int) -> None:
    """Writes the public name, an ensemble as all of ours are, and the step behind it."""
    public = text_format.Parse((REPOSITORY / BUNDLE.name / "config.pbtxt").read_text(), pb.ModelConfig())
    contract = replace(Manifest.load(BUNDLE).contract, name=MODEL)
    _rename(public, contract)
    step = pb.ModelConfig(name=STEP, backend="python", input=public.input, output=public.output)
    for output in step.output:
        output.label_filename = ""
    step.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=instances)
    step.parameters["delay_ms"].string_value = str(delay_ms)
    step.parameters["report"].string_value = json.dumps(_report(contract))
    for config in (public, step):
        (repository / config.name / "1").mkdir(parents=True)
        (repository / config.name / "config.pbtxt").write_text(text_format.MessageToString(config))
    shutil.copy(REPOSITORY / BUNDLE.name / "labels.txt", repository / MODEL)
    shutil.copy(Path(__file__).with_name("null_model.py"), repository / STEP / "1" / "model.py")


def _rename(public: pb.ModelConfig, contract: Contract) -> None:
    public.name = contract.name
    public.parameters["contract"].string_value = canonical_json(contract)
    public.parameters["contract_digest"].string_value = contract.digest
    del public.ensemble_scheduling.step[:]
    step = public.ensemble_scheduling.step.add(model_name=STEP, model_version=-1)
    step.input_map["VIDEO"] = "VIDEO"
    for output in public.output:
        step.output_map[output.name] = output.name


def _report(contract: Contract) -> dict[str, object]:
    counts = dict.fromkeys(("frames_decoded", "views", "units_wanted", "units_encoded"), 1)
    return {
        "protocol": contract.default_protocol,
        "warnings": [],
        "duration_s": None,
        "contract_digest": contract.digest,
        **counts,
        "milliseconds": {"total": 0.0},
    }


def _start(start: Callable[[], TritonProcess], probe: Probe) -> TritonProcess:
    """Starts it, again where it crashed: Triton 2.51 has been seen to abort while its backends start."""
    for _ in range(STARTS):
        process = start()
        if _gets_ready(process, probe):
            return process
        has_crashed, said = process.has_crashed, process.last_words
        process.kill()
        if not has_crashed:
            break
    raise RuntimeError(f"tritonserver did not start; it said:\n{said}")


def _gets_ready(process: TritonProcess, probe: Probe) -> bool:
    by = time.monotonic() + START_S
    while not process.has_ended and time.monotonic() < by:
        if probe.is_ready():
            return True
        time.sleep(0.1)
    return False
