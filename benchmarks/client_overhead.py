"""What the clients cost over raw tritonclient: python benchmarks/client_overhead.py [--rounds N] [--out FILE].

All ask the same server for the same answer in turns, by gRPC: a small clip, and a file of 5 MB that is mostly padding,
so that the bytes count and not the decoding. Raw tritonclient sends what our client sends and reads every tensor of the
answer, no more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from served import Server, serving
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

from tubelet.clients import AsyncVideoClassifier, VideoClassifier
from tubelet.demo.clips import write_clips
from tubelet.spec.manifest import Manifest
from tubelet.spec.tensors import answer_names

BUNDLE = Path("bundles/motion")
LARGE = 5_000_000
WARM_UP = 20
LABELS = 5


def padded(clip: bytes, size: int) -> bytes:
    """The clip, and a box of MP4 that players leap over."""
    rest = size - len(clip)
    return clip + rest.to_bytes(4, "big") + b"free" + bytes(rest - 8)


def raw(client: InferenceServerClient, names: tuple[str, ...], video: bytes) -> None:
    """A request as tritonclient's own examples write it."""
    tensor = InferInput("VIDEO", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([video], dtype=np.object_))
    outputs = [InferRequestedOutput(name, class_count=LABELS if name == "PROBABILITIES" else 0) for name in names]
    answer = client.infer(
        BUNDLE.name, [tensor], outputs=outputs, parameters={"deadline_ms": "300000"}, client_timeout=301
    )
    for name in names:
        answer.as_numpy(name)


def measure(server: Server, video: bytes, *, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each client, round by round."""
    url = server.addresses["grpc"]
    names = answer_names(Manifest.load(BUNDLE).contract)
    with (
        InferenceServerClient(url) as triton,
        VideoClassifier(url, model=BUNDLE.name) as ours,
        server.undisturbed(),
    ):
        calls: dict[str, Callable[[], object]] = {
            "tritonclient": lambda: raw(triton, names, video),
            "VideoClassifier": lambda: ours.classify(video),
        }
        seconds = asyncio.run(in_turns_with_a_coroutine(calls, url, video, rounds=WARM_UP + rounds))
    return {name: [second * 1000 for second in values[WARM_UP:]] for name, values in seconds.items()}


async def in_turns_with_a_coroutine(
    calls: dict[str, Callable[[], object]], url: str, video: bytes, *, rounds: int
) -> dict[str, list[float]]:
    """As `timing.in_turns`, and the asynchronous client in a loop that runs all the time, as its users have it."""
    async with AsyncVideoClassifier(url, model=BUNDLE.name) as classifier:
        names = [*calls, "AsyncVideoClassifier"]
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for i in range(rounds):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                began = time.perf_counter()
                if name in calls:
                    calls[name]()
                else:
                    await classifier.classify(video)
                seconds[name].append(time.perf_counter() - began)
    return seconds


def figures(milliseconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median and p90 of each, and the median of what it takes more than tritonclient in the same round."""
    plain = milliseconds["tritonclient"]
    return {
        name: {
            "median_ms": round(statistics.median(values), 2),
            "p90_ms": round(float(np.percentile(values, 90)), 2),
            "over_tritonclient_ms": round(statistics.median(a - b for a, b in zip(values, plain, strict=True)), 2),
        }
        for name, values in milliseconds.items()
    }


def table(found: dict[str, Any]) -> str:
    lines = ["| video | client | median, ms | p90, ms | over tritonclient, ms |", "| --- | --- | --- | --- | --- |"]
    for video, clients in found.items():
        for name, row in clients.items():
            lines.append(f"| {video} | {name} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the clients cost over raw tritonclient.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(BUNDLE, precision="fp32") as server:
        write_clips(Path(folder), split="evaluation", seed=11, count=1, workers=1)
        (path,) = Path(folder).glob("*.mp4")
        clip = path.read_bytes()
        videos = {f"{len(clip) / 1000:.0f} kB": clip, f"{LARGE / 1e6:.0f} MB": padded(clip, LARGE)}
        found = {name: figures(measure(server, video, rounds=arguments.rounds)) for name, video in videos.items()}
    sys.stdout.write(table(found) + "\n")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
