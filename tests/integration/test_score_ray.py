"""`tubelet score --ray`: a real cluster of two nodes, real servers, and both lose somebody half-way."""

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow.parquet as pq
import pytest
from ray_nodes import Nodes
from real_server import TUBELET, Serving

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = [pytest.mark.needs_triton, pytest.mark.timeout(240)]

NUM_VIDEOS, PART_ROWS = 200, 40


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes(2) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def servers(server: Serving, repository: Path) -> Iterator[tuple[Serving, Serving]]:
    with Serving(repository) as another:
        yield server, another


@pytest.fixture(scope="module")
def videos(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos with bytes of their own: the same few clips, each with a numbered box at its end that decoders skip."""
    folder = tmp_path_factory.mktemp("videos")
    originals = [clip.read_bytes() for clip in sorted(clips.glob("*.mp4"))]
    for number in range(NUM_VIDEOS):
        box = (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")
        (folder / f"{number:05d}.mp4").write_bytes(originals[number % len(originals)] + box)
    return folder


@dataclass
class Scoring:
    """`tubelet score --json` in a process of its own."""

    process: subprocess.Popen[str]
    out: Path

    def wait_for_parts(self, count: int) -> None:
        """Waits until ``count`` parts stand, and fails when the process ends before."""
        while len(list(self.out.glob("part-*.parquet"))) < count:
            assert self.process.poll() is None
            time.sleep(0.01)

    def finish(self) -> dict[str, Any]:
        """Its summary."""
        assert self.process.stdout is not None
        output = self.process.stdout.read()
        assert self.process.wait() == 0
        summary: dict[str, Any] = json.loads(output.splitlines()[-1])
        return summary


@pytest.fixture
def score(nodes: Nodes, servers: tuple[Serving, Serving]) -> Iterator[Callable[[Path, Path], Scoring]]:
    started: list[subprocess.Popen[str]] = []

    def start(source: Path, out: Path) -> Scoring:
        urls = [f"--url={serving.ready['grpc']}" for serving in servers]
        command: list[str | Path] = [TUBELET, "score", source, "--out", out, "--json", "--part-rows", str(PART_ROWS)]
        command += ["--ray", nodes.address, *urls]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "no_proxy": "*"})
        started.append(process)
        return Scoring(process, out)

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def rows_in(out: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(out.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def answers_of(serving: Serving) -> int:
    """Requests that a server has answered for the model's public name; the supervisor's own are among them."""
    with urlopen(serving.ready["metrics"]) as page:
        lines = page.read().decode().splitlines()
    name = 'nv_inference_request_success{model="motion",'
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith(name))


def assert_each_once(out: Path, videos: Path) -> None:
    rows = rows_in(out)
    assert Counter(row["uri"] for row in rows) == Counter(str(path) for path in videos.glob("*.mp4"))
    assert [row for row in rows if row["error_code"] is not None] == []


def test_a_node_that_dies_loses_nothing_and_both_servers_work(
    nodes: Nodes, servers: tuple[Serving, Serving], score: Callable[[Path, Path], Scoring], videos: Path, tmp_path: Path
) -> None:
    before = [answers_of(serving) for serving in servers]
    running = score(videos, tmp_path / "out")
    running.wait_for_parts(1)
    nodes.kill()
    summary = running.finish()
    nodes.add()

    assert (summary["is_complete"], summary["done_now"], summary["failed"]) == (True, NUM_VIDEOS, 0)
    assert_each_once(tmp_path / "out", videos)
    asked = [answers_of(serving) - count for serving, count in zip(servers, before, strict=True)]
    assert sum(asked) >= NUM_VIDEOS
    assert min(asked) > NUM_VIDEOS // 10


def test_a_driver_that_is_killed_goes_on_where_it_was(
    score: Callable[[Path, Path], Scoring], videos: Path, tmp_path: Path
) -> None:
    killed = score(videos, tmp_path / "out")
    killed.wait_for_parts(2)
    killed.process.kill()
    killed.process.wait()
    summary = score(videos, tmp_path / "out").finish()

    assert 0 < summary["done_before"] < NUM_VIDEOS
    assert summary["done_before"] + summary["done_now"] == NUM_VIDEOS
    assert_each_once(tmp_path / "out", videos)


def test_bytes_that_the_ledger_knows_are_not_asked_for_again(
    score: Callable[[Path, Path], Scoring], videos: Path, tmp_path: Path
) -> None:
    originals, again = tmp_path / "originals", tmp_path / "again"
    for folder in (originals, again):
        folder.mkdir()
    for video in sorted(videos.glob("*.mp4"))[:20]:
        (originals / video.name).write_bytes(video.read_bytes())
        (again / f"copy_{video.name}").write_bytes(video.read_bytes())
    score(originals, tmp_path / "out").finish()
    summary = score(again, tmp_path / "out").finish()

    assert (summary["done_now"], summary["copied_now"], summary["views_now"]) == (20, 20, 0)
    rows = {row["uri"]: row for row in rows_in(tmp_path / "out")}
    for video in originals.iterdir():
        original, copy = rows[str(video)], rows[str(again / f"copy_{video.name}")]
        assert (copy["copied_from"], copy["server_ms"]) == (str(video), None)
        assert copy["labels"] == original["labels"]


def test_nobody_at_the_address_is_one_line_and_soon(
    servers: tuple[Serving, Serving], videos: Path, tmp_path: Path
) -> None:
    command: list[str | Path] = [TUBELET, "score", videos, "--out", tmp_path / "out", "--ray", "127.0.0.1:9"]
    command += ["--url", servers[0].ready["grpc"]]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (run.returncode, run.stdout) == (1, "")
    assert "error: backend_lost: no Ray cluster at 127.0.0.1:9" in run.stderr
    assert "Traceback" not in run.stderr
