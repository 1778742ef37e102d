"""Measures the served demo model: time to ready, latency by step, Triton's overhead, throughput with batching.

``run.py`` calls it for its section ``demo``.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from direct import Direct
from served import Server, serving

from tubelet.clients import Retries, VideoClassifier
from tubelet.demo.clips import write_clips
from tubelet.preprocess.canary import canary_video
from tubelet.spec.errors import UnavailableError

__all__ = ["measure_demo"]

BUNDLE = Path("bundles/motion")


def measure_demo(*, rounds: int) -> dict[str, Any]:
    """Figures of the model ``motion``, alone on a server, so that no other one's canary is in them."""
    with serving(BUNDLE, precision="fp32") as server:
        figures: dict[str, Any] = {"seconds_to_ready": round(server.seconds_to_ready, 2)}
        figures |= _measure(server, rounds)
        figures["seconds_from_kill_to_next_answer"] = recovery(server)
    return figures


def _measure(server: Server, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, VideoClassifier(server.addresses["grpc"]) as classifier:
        write_clips(Path(folder), split="evaluation", seed=11, count=8, workers=1)
        videos = [path.read_bytes() for path in sorted(Path(folder).glob("*.mp4"))]
        direct = Direct(BUNDLE, "openvino", "fp32")
        protocol = direct.contract.default_protocol
        return {
            **latency(classifier, lambda video: direct.classify(video, protocol), videos, rounds),
            "throughput": {
                protocol: throughput(classifier, server.addresses["http"], videos, protocol=protocol, count=2 * rounds)
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


def recovery(server: Server) -> dict[str, float]:
    """Kills an encoder backend, then tritonserver, while six callers ask; seconds to the first answer after it."""
    seconds = {}
    for victim in ("motion_encoder", "bin/tritonserver"):
        once = VideoClassifier(server.addresses["grpc"], retries=Retries(attempts=1))
        with once as classifier, ThreadPoolExecutor(6) as pool:
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


def encoder_counts(http: str) -> tuple[int, int]:
    """Units and executions so far; the supervisor's canary, one request in five seconds, is among them."""
    with urlopen(f"{http}/v2/models/motion_encoder/stats") as answer:
        stats = json.load(answer)["model_stats"][0]
    return stats["inference_count"], stats["execution_count"]
