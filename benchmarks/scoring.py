"""Measures `tubelet score`: its throughput against the server's own peak, or its memory over a long list.

    python benchmarks/scoring.py [--rounds 5] [--clips 2000] [--protocol 1x1 --protocol 4x3] [--out FILE.json]
    python benchmarks/scoring.py --files 100000 [--out FILE.json]

The peak is that of a closed loop of tritonclient on the same clips (``raw_loop.py``), with whichever number of callers
is the fastest, found at the start. Then both take turns, each round beginning with the other one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from full_size import FOLDER, TUBELET
from machine import describe
from served import Server, serving
from timing import spread

from tubelet.demo.clips import write_clips
from tubelet.preprocess.canary import canary_video

BUNDLE = Path("bundles/motion")
CALLERS = (2, 4, 8, 16, 32)
NUM_DISTINCT = 64
"""Generated clips; all others are these with some bytes at their end that decoders pass over."""
SAMPLE_S = 0.5
WARM_SHARE = 0.2
"""Part of a run that is not looked at for growth: pools and caches fill."""


def measure_throughput(server: Server, *, rounds: int, num_clips: int, protocols: list[str]) -> dict[str, Any]:
    """Clips a second of both, and their ratio round by round, by protocol."""
    with archive(num_clips) as folder:
        return {protocol: _compare(server, folder, protocol, rounds, num_clips) for protocol in protocols}


def _compare(server: Server, folder: Path, protocol: str, rounds: int, num_clips: int) -> dict[str, Any]:
    url = server.addresses["grpc"]
    say(f"{protocol}: looking for the peak")
    found = {callers: _raw(url, folder, protocol, callers, max(64, num_clips // 4)) for callers in CALLERS}
    best = max(found, key=lambda callers: found[callers])
    raw: list[float] = []
    scored: list[dict[str, Any]] = []
    for number in range(rounds):
        for is_ours in (True, False) if number % 2 else (False, True):
            if is_ours:
                scored.append(_score(url, folder, protocol))
            else:
                raw.append(_raw(url, folder, protocol, best, num_clips))
        say(f"{protocol}: {raw[-1]:.1f} raw, {scored[-1]['per_s']:.1f} scored")
    return {
        "callers_at_the_peak": best,
        "clips_per_second_by_callers": {str(callers): round(rate, 1) for callers, rate in found.items()},
        "raw_clips_per_second": spread(raw, digits=2),
        "scored_clips_per_second": spread([one["per_s"] for one in scored], digits=2),
        "whole_command_clips_per_second": spread([num_clips / one["wall_s"] for one in scored], digits=2),
        "cpu_ms_per_clip": spread([one["cpu_ms"] for one in scored], digits=2),
        "ratio": spread([one["per_s"] / rate for one, rate in zip(scored, raw, strict=True)], digits=3),
    }


def _raw(url: str, folder: Path, protocol: str, callers: int, count: int) -> float:
    command: list[str | Path] = [
        sys.executable,
        Path(__file__).with_name("raw_loop.py"),
        folder,
        "--url",
        url,
        "--protocol",
        protocol,
    ]
    command += ["--concurrency", str(callers), "--count", str(count)]
    rate: float = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["clips_per_second"]
    return rate


def _score(url: str, source: Path, protocol: str) -> dict[str, Any]:
    """The summary of one whole run, with its wall time and the processor time of each clip."""
    with tempfile.TemporaryDirectory() as out:
        process, began = _start(url, source, Path(out), protocol), time.perf_counter()
        lines = process.stdout.read().splitlines() if process.stdout else []
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    summary: dict[str, Any] = json.loads(lines[-1])
    if process.returncode or summary["failed"]:
        raise RuntimeError(f"exit code {process.returncode}: {summary}")
    cpu_ms = 1000 * (usage.ru_utime + usage.ru_stime) / summary["done_now"]
    return summary | {"wall_s": time.perf_counter() - began, "cpu_ms": cpu_ms}


def _start(url: str, source: Path, out: Path, protocol: str) -> subprocess.Popen[bytes]:
    command: list[str | Path] = [TUBELET, "score", source, "--out", out, "--url", url, "--protocol", protocol, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def measure_memory(server: Server, *, num_files: int) -> dict[str, Any]:
    """Memory of scoring a list of so many files, over time; each has one of a fifth as many contents, drawn by chance.

    So the mixture of new contents and copies changes little after the first fifth, and the work is alike throughout.
    """
    num_distinct = -(-num_files // 5)
    with (
        archive(num_files, contents=[canary_video()], num_distinct=num_distinct) as folder,
        tempfile.TemporaryDirectory() as out,
    ):
        listed = Path(out) / "videos.csv"
        listed.write_text("video\n" + "".join(f"{path}\n" for path in sorted(folder.iterdir())))
        process = _start(server.addresses["grpc"], listed, Path(out) / "rows", "1x1")
        samples = list(_resident_mib(process))
        lines = process.stdout.read().splitlines() if process.stdout else []
    summary = json.loads(lines[-1])
    if summary["failed"]:
        raise RuntimeError(f"these videos have no answer: {summary}")
    moments, mib = np.array(samples).T
    late = moments >= WARM_SHARE * moments[-1]
    per_second = float(np.polyfit(moments[late], mib[late], 1)[0])
    return {
        "files": num_files,
        "different": num_distinct,
        "done": summary["done"],
        "seconds": summary["seconds"],
        "clips_per_second": summary["per_s"],
        "resident_mib": {"max": round(float(mib.max()), 1), **_quarters(mib)},
        "growth_mib_per_10000_files": round(per_second / summary["per_s"] * 10_000, 3),
    }


def _resident_mib(process: subprocess.Popen[bytes]) -> Iterator[tuple[float, float]]:
    began = time.monotonic()
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
        if lines:  # else it is just ending
            yield time.monotonic() - began, int(lines[0].split()[1]) / 1024
        time.sleep(SAMPLE_S)


def _quarters(mib: np.ndarray) -> dict[str, float]:
    return {
        f"median_of_quarter_{i + 1}": round(float(np.median(part)), 1) for i, part in enumerate(np.array_split(mib, 4))
    }


@contextmanager
def archive(count: int, contents: list[bytes] | None = None, *, num_distinct: int | None = None) -> Iterator[Path]:
    """A folder of so many videos, all of different bytes, or each by chance one of ``num_distinct``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=FOLDER)).resolve()
    try:
        if contents is None:
            with tempfile.TemporaryDirectory() as clips:
                write_clips(Path(clips), split="evaluation", seed=12, count=NUM_DISTINCT, workers=2)
                contents = [path.read_bytes() for path in sorted(Path(clips).glob("*.mp4"))]
        which = range(count) if num_distinct is None else Random(0).choices(range(num_distinct), k=count)
        for number, content in enumerate(which):
            # An empty box of MP4.
            box = b"\0\0\0\x0cfree" + content.to_bytes(4, "big")
            (folder / f"{number:07}.mp4").write_bytes(contents[content % len(contents)] + box)
        yield folder
    finally:
        shutil.rmtree(folder)


def say(text: str) -> None:
    """Tells where the run is."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--protocol", action="append", help="may be given often [default: 1x1 and 4x3]")
    parser.add_argument("--files", type=int, help="measure memory over so many files instead")
    parser.add_argument("--out", type=Path, help="JSON")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": describe(), "date": time.strftime("%Y-%m-%d")}
    with serving(BUNDLE, precision="fp32") as server, server.undisturbed():
        if arguments.files:
            results["memory"] = measure_memory(server, num_files=arguments.files)
        else:
            protocols = arguments.protocol or ["1x1", "4x3"]
            results["throughput"] = measure_throughput(
                server, rounds=arguments.rounds, num_clips=arguments.clips, protocols=protocols
            )
    text = json.dumps(results, indent=2)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text)  # noqa: T201


if __name__ == "__main__":
    main()
