"""What the kubelet would run, taken from the rendered manifests and run against a live server."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from real_server import Serving

from manifests import OVERLAYS, option, render, server
from tubelet.clients import Classification
from tubelet.preprocess.canary import canary_video
from tubelet.server.drain import read_work
from tubelet.server.health import Probe
from tubelet.spec.errors import TubeletError

pytestmark = pytest.mark.needs_triton

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    """Of the target that runs here; the other's probes are the same (tests/contract/test_kubernetes.py)."""
    return server(render(OVERLAYS / "cpu"))


def port_of(serving: Serving, kind: str) -> int:
    return int(serving.ready[kind].removesuffix("/metrics").rsplit(":", 1)[1])


class Kubelet:
    """Runs a container's commands where a test's server is, as if they were its own."""

    def __init__(self, container: dict[str, Any], serving: Serving) -> None:
        self._container = container
        self._instead = {
            f"--repository={option(container['args'], '--repository')}": f"--repository={serving.repository}"
        }
        for kind in ("http", "metrics"):
            port = serving.ready[kind].removesuffix("/metrics").rsplit(":", 1)[1]
            self._instead[f"--{kind}-port={option(container['args'], f'--{kind}-port')}"] = f"--{kind}-port={port}"

    def probes(self) -> dict[str, bool]:
        return {name: self._run(self._container[name]["exec"]["command"]).returncode == 0 for name in PROBES}

    def stops(self, *options: str) -> subprocess.CompletedProcess[str]:
        """What comes before a stop; of an option that is given here, this value counts."""
        return self._run([*self._container["lifecycle"]["preStop"]["exec"]["command"], *options])

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        assert command[0] == "python3"
        words = [self._instead.get(word, word) for word in command[1:]]
        return subprocess.run([sys.executable, *words], stderr=subprocess.PIPE, text=True)


@contextmanager
def in_flight(serving: Serving, *, count: int) -> Iterator[list[Classification | TubeletError]]:
    """So many requests on their way, of which some have reached the server; gives the answers as they come."""
    answers: list[Classification | TubeletError] = []
    with serving.classifier() as classifier:

        def call() -> None:
            try:
                answers.append(classifier.classify(canary_video(), protocol="21x3"))
            except TubeletError as exc:
                answers.append(exc)

        callers = [threading.Thread(target=call) for _ in range(count)]
        for caller in callers:
            caller.start()
        probe = Probe("127.0.0.1", port_of(serving, "http"), port_of(serving, "metrics"))
        while read_work(probe.metrics()).in_flight < count / 2:
            pass
        try:
            yield answers
        finally:
            for caller in callers:
                caller.join()


def test_a_server_that_is_well_passes_and_one_that_is_gone_fails(
    serve: Callable[..., Serving], container: dict[str, Any]
) -> None:
    serving = serve()
    kubelet = Kubelet(container, serving)
    assert kubelet.probes() == dict.fromkeys(PROBES, True)
    assert serving.stop() == 0
    assert kubelet.probes() == dict.fromkeys(PROBES, False)
    assert kubelet.stops("--pause-s=0").stderr == "tubelet: drain: gone\n"


def test_a_lost_backend_takes_the_pod_out_and_leaves_it_running(
    serve: Callable[..., Serving], container: dict[str, Any]
) -> None:
    serving = serve()
    kubelet = Kubelet(container, serving)
    os.kill(serving.process.pid, signal.SIGSTOP)  # the supervisor would mend it before anybody looks
    try:
        os.kill(serving.processes("/motion_encoder/")[0], signal.SIGKILL)
        assert kubelet.probes() == {"startupProbe": False, "readinessProbe": False, "livenessProbe": True}
    finally:
        os.kill(serving.process.pid, signal.SIGCONT)
    serving.wait_for("lost")
    serving.wait_for("ready")
    assert kubelet.probes() == dict.fromkeys(PROBES, True)


def test_a_server_that_hangs_is_not_live(serve: Callable[..., Serving], container: dict[str, Any]) -> None:
    serving = serve()
    pids = [serving.process.pid, serving.processes("bin/tritonserver")[0]]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert not any(Kubelet(container, serving).probes().values())
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def test_what_is_in_flight_when_a_pod_is_deleted_is_answered(
    serve: Callable[..., Serving], container: dict[str, Any]
) -> None:
    serving = serve()
    count = 40
    with in_flight(serving, count=count) as answers:
        drained = Kubelet(container, serving).stops("--pause-s=0")
        assert (drained.returncode, drained.stderr) == (0, "tubelet: drain: idle\n")
        answered = len(answers)
        assert serving.stop() == 0
    assert answered == count
    assert [answer for answer in answers if not isinstance(answer, Classification)] == []


def test_the_wait_for_what_is_in_flight_has_an_end(serve: Callable[..., Serving], container: dict[str, Any]) -> None:
    serving = serve()
    with in_flight(serving, count=40):
        drained = Kubelet(container, serving).stops("--pause-s=0", "--most-s=0.1")
    assert (drained.returncode, drained.stderr) == (1, "tubelet: drain: late\n")
