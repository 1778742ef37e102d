"""More requests than the encoder takes: who is refused, who goes first, and how much is decoded meanwhile.

The encoder stands before a gate and keeps a pace, so that it takes as long as a test wants, whatever the machine.
"""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from real_server import Serving

from tubelet.clients import Classification, VideoClassifier
from tubelet.export.repository import write_repository
from tubelet.spec.errors import OverloadedError
from tubelet.spec.limits import Limits
from tubelet.spec.priorities import Priority

pytestmark = pytest.mark.needs_triton

PROTOCOL = "4x3"
"""More units than the encoder's largest batch: one video that waits for it is enough."""

QUEUE_SIZE = 12
UNDER_WAY = 1 + 2 + 2 + 4
"""Videos beyond the queue: in the encoder; decoded by both processes of `sample`; held by both; handed to them."""

RUNS = 12
"""Until an encoder knows its pace, whatever it was before."""

LOOKS = 300
"""At the server's metrics, until a request is in its queue; each takes some milliseconds."""

SHIM = """
import fcntl
import time

from tubelet.server.steps.encoder import TritonPythonModel as Step


class GatedEngine:
    def __init__(self, engine):
        self.engine = engine

    def run(self, feeds):
        with open({gate!r}) as gate:
            fcntl.flock(gate, fcntl.LOCK_SH)
            time.sleep(len(feeds["UNITS"]) * float(gate.read() or 0))
        return self.engine.run(feeds)


class TritonPythonModel(Step):
    ahead_s = 0.0

    def open(self):
        super().open()
        self.engine = GatedEngine(self.engine)
"""


@dataclass
class Crowd:
    """Callers of a server whose encoder stands before a gate; answers in the order in which they came."""

    serving: Serving
    gate: Path
    classifier: VideoClassifier
    pool: ThreadPoolExecutor
    video: bytes

    @contextmanager
    def closed_gate(self) -> Iterator[None]:
        with self.gate.open() as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield

    @contextmanager
    def pace(self, seconds: float) -> Iterator[None]:
        """What each unit takes at least, which the encoder has learned."""
        self.gate.write_text(str(seconds))
        try:
            for _ in range(RUNS):
                self.classifier.classify(self.video, protocol="1x1")
            yield
        finally:
            self.gate.write_text("")

    def call(self, came: list[str], priority: Priority, name: str, **wishes: Any) -> Future[Classification]:
        future = self.pool.submit(self.classifier.classify, self.video, protocol=PROTOCOL, priority=priority, **wishes)
        future.add_done_callback(lambda done: None if done.exception() else came.append(name))
        return future

    def metric(self, name: str) -> float:
        with urlopen(self.serving.ready["metrics"]) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def decoded(self) -> float:
        return self.metric('tubelet_videos_total{model="motion"')

    def queued(self) -> float:
        return self.metric('nv_inference_pending_request_count{model="motion_sample"')


@pytest.fixture(scope="module")
def crowd(motion_bundle: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    repository, gate = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("gate") / "gate"
    write_repository([motion_bundle], target="cpu", out=repository, limits=Limits(queue_size=QUEUE_SIZE))
    (repository / "motion_encoder" / "1" / "model.py").write_text(SHIM.format(gate=str(gate)))
    gate.touch()
    video = next(iter(sorted(clips.glob("*.mp4")))).read_bytes()
    with Serving(repository) as serving, serving.classifier() as classifier, ThreadPoolExecutor(64) as pool:
        # Its canary waits before the gate, too, and on a busy machine so long that it starts the server again.
        serving.process.send_signal(signal.SIGSTOP)
        try:
            yield Crowd(serving, gate, classifier, pool, video)
        finally:
            serving.process.send_signal(signal.SIGCONT)


def wait_for_refusals(calls: list[Future[Classification]], count: int) -> None:
    for call in islice(as_completed(calls), count):
        assert isinstance(call.exception(), OverloadedError)


@pytest.mark.parametrize("others", ["archive", "interactive"])
def test_what_is_too_much_is_refused_before_it_is_decoded(crowd: Crowd, others: Priority) -> None:
    decoded = crowd.decoded()
    came: list[str] = []
    with crowd.closed_gate():
        calls = [crowd.call(came, others, "a video") for _ in range(40)]
        wait_for_refusals(calls, 40 - QUEUE_SIZE - UNDER_WAY)
        assert crowd.decoded() - decoded <= 5, "in the encoder and behind it; a canary may be among them"
        assert not came
    errors = [call.exception() for call in calls if call.exception()]
    assert {type(error) for error in errors} == {OverloadedError}
    assert len(came) == 40 - len(errors) >= QUEUE_SIZE


def test_who_waits_overtakes_an_archive_and_has_a_queue_of_its_own(crowd: Crowd) -> None:
    came: list[str] = []
    with crowd.closed_gate():
        archive = [crowd.call(came, "archive", "archive") for _ in range(40)]
        wait_for_refusals(archive, 40 - QUEUE_SIZE - UNDER_WAY)
        queued = crowd.queued()
        first = crowd.call(came, "interactive", "interactive")
        for _ in range(LOOKS):
            if crowd.queued() > queued:
                break
        assert not first.done(), first.exception()
    first.result()
    assert [call.exception() for call in archive].count(None) == len(came) - 1
    assert came.index("interactive") <= UNDER_WAY
    assert len(came) - came.index("interactive") > queued - 2


def test_a_deadline_ends_the_wait_for_the_encoder(crowd: Crowd) -> None:
    came: list[str] = []
    with crowd.closed_gate():
        calls = [crowd.call(came, "interactive", "a video", deadline_s=2.0) for _ in range(8)]
        codes = [getattr(call.exception(), "code", None) for call in calls]
        assert set(codes) == {"deadline_exceeded", "overloaded"}, "who was decoded, and who was not"
    assert not came
    crowd.call(came, "interactive", "a video").result()


def test_what_cannot_be_done_in_time_is_refused_before_it_is_decoded(crowd: Crowd) -> None:
    came: list[str] = []
    with crowd.pace(0.02):
        decoded = crowd.decoded()
        calls = [crowd.call(came, "interactive", "a video", deadline_s=4.0) for _ in range(40)]
        errors = [error for call in calls if (error := call.exception())]
        num_decoded = crowd.decoded() - decoded
    assert {type(error) for error in errors} == {OverloadedError}
    assert 2 <= len(came) == len(calls) - len(errors)
    assert num_decoded == len(came)
