"""The examples that users copy, run as they stand."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from real_server import Serving

from tubelet.preprocess.canary import canary_video

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
pytestmark = pytest.mark.needs_triton

CLIENTS = Path(__file__).parents[2] / "clients"
BLOCKS = re.findall(r"```sh\n(.*?)```", (CLIENTS / "curl" / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clip.mp4").write_bytes(canary_video())
    return tmp_path


def run_block(number: int, folder: Path, http: str) -> str:
    """Runs one block of the page; only the address is another."""
    script = BLOCKS[number].replace("localhost:8000", urlsplit(http).netloc)
    done = subprocess.run(["sh", "-ec", script], cwd=folder, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


LARGE = 12_000_000
"""Bytes: forms of a third of it end Triton 2.51."""


@needs_curl
def test_the_raw_form_takes_large_files(server: Serving, folder: Path) -> None:
    with (folder / "clip.mp4").open("ab") as file:
        file.write(LARGE.to_bytes(4, "big") + b"free" + bytes(LARGE - 8))
    (triton,) = server.processes("bin/tritonserver")
    for block, word in enumerate(("top", "outputs")):
        assert word in run_block(block, folder, server.ready["http"])
    assert server.processes("bin/tritonserver") == [triton]


@needs_curl
def test_the_raw_form_answers_with_a_report(server: Serving, folder: Path) -> None:
    report = json.loads(run_block(0, folder, server.ready["http"]))
    assert report["protocol"] == "1x1"
    assert len(report["top"]) == 5


@needs_curl
def test_the_binary_extension_answers_with_labels(server: Serving, folder: Path) -> None:
    (output,) = json.loads(run_block(1, folder, server.ready["http"]))["outputs"]
    assert [len(text.split(":")) for text in output["data"]] == [3, 3, 3]
    with server.classifier() as classifier:
        found = classifier.classify(folder / "clip.mp4", protocol="4x3", top=3)
    assert [text.split(":")[2] for text in output["data"]] == [label.name for label in found.labels]
    for text, label in zip(output["data"], found.labels, strict=True):
        assert float(text.split(":")[0]) == pytest.approx(label.probability, abs=1e-5)


@needs_curl
def test_the_contract_can_be_asked_for(server: Serving, folder: Path) -> None:
    with server.classifier() as classifier:
        assert classifier.describe().contract.digest in run_block(2, folder, server.ready["http"])


@needs_curl
def test_an_error_begins_with_its_code(server: Serving, folder: Path) -> None:
    assert "not_a_video: " in json.loads(run_block(3, folder, server.ready["http"]))["error"]


def test_the_python_example_prints_labels(server: Serving, folder: Path) -> None:
    script = CLIENTS / "python" / "classify.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 30
    command = [sys.executable, script, folder / "clip.mp4", server.ready["grpc"]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert [len(line.split()) for line in done.stdout.splitlines()] == [2, 2, 2]
    broken = subprocess.run(
        [*command[:2], script, command[3]], capture_output=True, text=True, check=False, timeout=120
    )
    assert broken.returncode == 1
    assert broken.stderr.startswith("error: not_a_video: ")


def test_the_command_line_reads_its_address_from_the_environment(server: Serving, folder: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "tubelet", "classify", "clip.mp4", "--json"],
        cwd=folder,
        env={**os.environ, "TUBELET_URL": server.ready["grpc"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    (line,) = [json.loads(text) for text in done.stdout.splitlines()]
    assert line["video"] == "clip.mp4"
    # Of its 32 frames every second one is wanted; 8 of the others are left out, since no frame refers to them.
    assert line["report"]["frames_decoded"] == 24
    assert 0 < line["report"]["milliseconds"]["total"] < line["round_trip_ms"]
