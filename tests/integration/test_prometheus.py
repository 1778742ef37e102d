"""A real Prometheus scrapes a live server; every rule and every panel is evaluated by it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml  # type: ignore[import-untyped]
from real_server import Serving

from monitoring import MONITORING, load_check_names
from tubelet.preprocess.canary import canary_video
from tubelet.spec.errors import InvalidVideoError

pytestmark = pytest.mark.needs_triton

SCRIPT = MONITORING / "check_names.py"

check_names = load_check_names()
EMPTY = {
    "Decoder of the card: by the card": "no card",
    "Decoder of the card: by the processor: {{reason}}": "no card",
    "Units saved: {{model}}: brought": "nobody brings features",
    "annotation Started again": "the server is not started again",
}
"""Expressions of the dashboard without data here, beside those on GPUs, and why."""


class Prometheus:
    """Prometheus with the project's rules; it looks at one server each second."""

    def __init__(self, folder: Path, serving: Serving) -> None:
        shutil.copy(check_names.ALERTS, folder)
        config = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        target = serving.ready["metrics"].removeprefix("http://").removesuffix("/metrics")
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._url = f"http://{address}"
        self._pause = threading.Event()
        command = [
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address={address}",
        ]
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        self._wait_until(self._is_there)

    def ask(self, path: str, **parameters: str) -> Any:
        with urlopen(f"{self._url}/api/v1/{path}?{urlencode(parameters)}") as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[Any]:
        """The series of an instant query; fails where Prometheus does."""
        result: list[Any] = self.ask("query", query=expression)["result"]
        return result

    def wait_for(self, expression: str) -> None:
        """Blocks until an expression has a result; the test's own timeout ends a wait that is in vain."""
        self._wait_until(lambda: bool(self.query(expression)))

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait() == 0

    def _is_there(self) -> bool:
        assert self._process.poll() is None
        try:
            return bool(self.query("vector(1)"))
        except URLError:
            return False

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._pause.wait(0.1)


@pytest.fixture
def start_prometheus(tmp_path: Path) -> Iterator[Callable[[Serving], Prometheus]]:
    if shutil.which("prometheus") is None:
        pytest.skip("Prometheus is not installed (Debian: prometheus)")
    started: list[Prometheus] = []

    def start(serving: Serving) -> Prometheus:
        started.append(Prometheus(tmp_path, serving))
        return started[-1]

    yield start
    for prometheus in started:
        prometheus.stop()


def use(serving: Serving) -> None:
    """Some answers, and an error."""
    with serving.classifier() as classifier:
        for _ in range(3):
            classifier.classify(canary_video(), protocol="4x3")
        with pytest.raises(InvalidVideoError):
            classifier.classify(b"no video")


def filled_in(expression: str) -> str:
    """A dashboard's expression as Grafana sends it with everything selected."""
    expression = expression.replace("$instance", ".+").replace("$model", ".+").replace("$__rate_interval", "1m")
    assert "$" not in expression
    return expression


def test_rules_and_panels_have_their_data(
    serve: Callable[..., Serving], start_prometheus: Callable[[Serving], Prometheus]
) -> None:
    serving = serve()
    use(serving)
    prometheus = start_prometheus(serving)
    prometheus.wait_for('count_over_time(up{job="tubelet"}[1m]) >= 2')
    use(serving)
    prometheus.wait_for("sum(increase(tubelet_errors_total[1m])) > 0")

    groups = prometheus.ask("rules")["groups"]
    evaluated = {
        rule["name"]: (rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]
    }
    assert evaluated == dict.fromkeys(check_names.rule_expressions(), ("ok", ""))
    assert prometheus.query('ALERTS{alertstate="firing"}') == []

    without = {
        where for where, text in check_names.dashboard_expressions().items() if not prometheus.query(filled_in(text))
    }
    on_gpus = {
        where
        for where, text in check_names.dashboard_expressions().items()
        if any(name.startswith("nv_gpu_") for name in check_names.metric_names(text))
    }
    assert without == on_gpus | EMPTY.keys()


def test_a_lost_backend_is_an_alert(
    serve: Callable[..., Serving], start_prometheus: Callable[[Serving], Prometheus]
) -> None:
    serving = serve()
    use(serving)
    prometheus = start_prometheus(serving)
    prometheus.wait_for('count_over_time(up{job="tubelet"}[1m]) >= 2')
    os.kill(serving.processes("/motion_units/")[0], signal.SIGKILL)
    serving.wait_for("ready")
    prometheus.wait_for('ALERTS{alertname="TubeletRestarted", alertstate="firing"}')


def test_names_are_those_that_the_server_exposes(server: Serving, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, server.ready["metrics"]], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_what_is_excused_for_want_of_a_gpu_is_not_exposed_here(server: Serving) -> None:
    with urlopen(server.ready["metrics"]) as answer:
        exposed = check_names.exposed_names(answer.read().decode())
    gpu = {name for name in check_names.ELSEWHERE if re.search("gpu", name)}
    assert not gpu & exposed
