"""A server's peak: a closed loop of tritonclient and nothing else, in a process of its own.

    python benchmarks/raw_loop.py --url HOST:PORT --protocol 4x3 --concurrency 8 FOLDER

Prints clips a second. Every caller sends its next video, which was read beforehand, as soon as it has an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient

OUTPUTS = {"PROBABILITIES": 5, "LOGITS": 0, "VIEW_LOGITS": 0, "FRAME_TIMES": 0, "CLIP_SPANS": 0, "REPORT": 0}
"""What the client asks of the model ``motion``, and as how many labels."""


async def loop(url: str, model: str, protocol: str, videos: list[bytes], concurrency: int) -> float:
    """Clips a second."""
    async with InferenceServerClient(url) as triton:

        async def call(videos: Iterator[bytes]) -> None:
            for video in videos:
                tensor = InferInput("VIDEO", [1], "BYTES")
                tensor.set_data_from_numpy(np.array([video], dtype=np.object_))
                outputs = [InferRequestedOutput(name, class_count=count) for name, count in OUTPUTS.items()]
                await triton.infer(model, [tensor], outputs=outputs, parameters={"protocol": protocol})

        await asyncio.gather(*(call(iter(videos[:1])) for _ in range(concurrency)))
        shared = iter(videos)
        began = time.perf_counter()
        await asyncio.gather(*(call(shared) for _ in range(concurrency)))
        return len(videos) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default="motion")
    parser.add_argument("--protocol", required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--count", type=int, help="clips; without it all")
    arguments = parser.parse_args()
    videos = [path.read_bytes() for path in sorted(arguments.folder.glob("*.mp4"))[: arguments.count]]
    rate = asyncio.run(loop(arguments.url, arguments.model, arguments.protocol, videos, arguments.concurrency))
    print(json.dumps({"clips_per_second": rate}))  # noqa: T201


if __name__ == "__main__":
    main()
