"""Measures the served demo model: time to ready, latency by step, Triton's overhead, throughput with batching.

python benchmarks/serving.py [--repository build/bench] [--rounds 100] [--out benchmarks/results/NAME.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np

from tubelet.averaging import average_views
from tubelet.clients import VideoClassifier
from tubelet.demo.clips import write_clips
from tubelet.engines import open_engine
from tubelet.preprocess.canary import canary_video
from tubelet.preprocess.geometry import cut_units
from tubelet.preprocess.prepare import prepare_video
from tubelet.spec.errors import UnavailableError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract, Manifest
from tubelet.spec.request import Request

TUBELET = Path(sys.executable).parent / "tubelet"
BUNDLE = Path("bundles/motion")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("build/bench"))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
    command = [str(TUBELET), "serve", "--json", "--repository", str(arguments.repository), *ports]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None  # noqa: S101
            ready = json.loads(server.stdout.readline())
            seconds = time.monotonic() - started
            figures = {"machine": machine(), "seconds_to_ready": round(seconds, 2)}
            figures |= measure(ready, arguments.repository, arguments.rounds)
            figures["seconds_from_kill_to_next_answer"] = recovery(server, ready)
        finally:
            server.terminate()
    text = json.dumps(figures, indent=2)
    print(text)  # noqa: T201
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")


def measure(ready: dict[str, Any], repository: Path, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, VideoClassifier(ready["grpc"]) as classifier:
        write_clips(Path(folder), split="evaluation", seed=11, count=8, workers=2)
        videos = [path.read_bytes() for path in sorted(Path(folder).glob("*.mp4"))]
        direct = open_direct(Manifest.load(BUNDLE).contract, repository)
        return {
            **latency(classifier, direct, videos, rounds),
            "throughput": {
                protocol: throughput(classifier, ready["http"], videos, protocol=protocol, count=2 * rounds)
                for protocol in ("1x1", "4x3")
            },
        }


def latency(
    classifier: VideoClassifier, direct: Callable[[bytes], Any], videos: list[bytes], rounds: int
) -> dict[str, Any]:
    """One view, one caller: through Triton and in this process, in turns."""
    served, called, steps, network = [], [], [], []
    for i in range(rounds + 5):
        video = videos[i % len(videos)]
        answer = classifier.classify(video)
        begun = time.perf_counter()
        direct(video)
        if i >= 5:  # the first ones warm caches up on either side
            called.append((time.perf_counter() - begun) * 1000)
            served.append(answer.round_trip_ms)
            network.append(answer.network_ms)
            steps.append(answer.report.milliseconds)
    split = {name: round(statistics.median(step[name] for step in steps), 2) for name in steps[0]}
    overhead = statistics.median(a - b for a, b in zip(served, called, strict=True))
    return {
        "latency_ms": {
            "median": round(statistics.median(served), 2),
            "p95": round(float(np.percentile(served, 95)), 2),
        },
        "latency_split_ms": {**split, "network_and_queue": round(statistics.median(network), 2)},
        "direct_ms": summary(called),
        "triton_overhead_ms": round(overhead, 2),
        "triton_overhead_ratio": round(statistics.median(served) / statistics.median(called), 3),
    }


def recovery(server: subprocess.Popen[str], ready: dict[str, Any]) -> dict[str, float]:
    """Kills an encoder backend, then tritonserver, while six callers ask; seconds to the first answer after it."""
    seconds = {}
    for victim in ("motion_encoder", "bin/tritonserver"):
        with VideoClassifier(ready["grpc"]) as classifier, ThreadPoolExecutor(6) as pool:
            killed = threading.Event()
            callers = [pool.submit(ask_until_it_is_back, classifier, killed) for _ in range(6)]
            os.kill(find_process(server.pid, victim), signal.SIGKILL)
            begun = time.monotonic()
            killed.set()
            seconds[victim] = round(min(caller.result() for caller in callers) - begun, 2)
    return seconds


def ask_until_it_is_back(classifier: VideoClassifier, killed: threading.Event) -> float:
    """Asks without a pause; the moment of the first answer that follows a failure."""
    has_failed = False
    while True:
        try:
            classifier.classify(canary_video())
        except UnavailableError:
            has_failed = killed.is_set()
            continue
        if has_failed:
            return time.monotonic()


def find_process(supervisor: int, name: str) -> int:
    """The process of tritonserver, or of one of its backends, below a supervisor."""
    children = {supervisor}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if parent in children:
            children.add(int(folder.name))
            if name in command:
                return int(folder.name)
    raise LookupError(name)


def summary(milliseconds: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(milliseconds), 2),
        "p95": round(float(np.percentile(milliseconds, 95)), 2),
    }


def throughput(
    classifier: VideoClassifier, http: str, videos: list[bytes], *, protocol: str, count: int
) -> dict[str, Any]:
    """Clips a second with one and with eight callers, in turns, and how Triton put their units together."""
    rates: dict[int, list[float]] = {1: [], 8: []}
    counts: dict[int, tuple[int, int]] = {1: (0, 0), 8: (0, 0)}
    for _ in range(3):
        for callers in rates:
            units, executions = encoder_counts(http)
            begun = time.perf_counter()
            with ThreadPoolExecutor(callers) as pool:
                list(pool.map(lambda i: classifier.classify(videos[i % len(videos)], protocol=protocol), range(count)))
            rates[callers].append(count / (time.perf_counter() - begun))
            new_units, new_executions = encoder_counts(http)
            counts[callers] = (
                counts[callers][0] + new_units - units,
                counts[callers][1] + new_executions - executions,
            )
    return {
        f"{callers}_callers": {
            "clips_per_second": round(statistics.median(rates[callers]), 1),
            "requests": 3 * count,
            "encoder_executions": counts[callers][1],
            "units_per_execution": round(counts[callers][0] / counts[callers][1], 1),
        }
        for callers in rates
    }


def open_direct(contract: Contract, repository: Path) -> Callable[[bytes], Any]:
    """The same functions and the same engine as the steps', called one after the other in this process."""
    threads = len(os.sched_getaffinity(0))
    encoder = open_engine(repository / f"{contract.name}_encoder" / "1" / "encoder.onnx", threads=threads)
    temporal = open_engine(repository / f"{contract.name}_temporal" / "1" / "temporal.onnx", threads=1)
    limits = Limits()
    request = Request.from_parameters({}, contract, limits)

    def classify(video: bytes) -> Any:
        prepared = prepare_video(video, request, contract, limits)
        units = cut_units(prepared.frames, prepared.unit_frames, prepared.crops, size_px=contract.crop.size_px)
        feeds = {"CLIP_UNITS": prepared.clip_units, "CROPS": prepared.crops, **encoder.run({"UNITS": units})}
        return average_views(temporal.run(feeds)["VIEW_LOGITS"], contract.aggregation, contract.heads)

    return classify


def encoder_counts(http: str) -> tuple[int, int]:
    """Units and executions so far; the supervisor's canary, one request in five seconds, is among them."""
    with urlopen(f"{http}/v2/models/motion_encoder/stats") as answer:
        stats = json.load(answer)["model_stats"][0]
    return stats["inference_count"], stats["execution_count"]


def machine() -> str:
    cpu = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in cpu if line.startswith("model name")]
    memory = Path("/proc/meminfo").read_text().split()[1]
    return f"{models[0]}, {len(models)} cores, {int(memory) >> 20} GiB, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
