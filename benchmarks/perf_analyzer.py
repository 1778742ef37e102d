"""NVIDIA's perf_analyzer, a load generator that knows nothing of ours: fetched, run, and read.

Its binary is in tritonclient's wheels for manylinux1 up to 2.59, and lacks two libraries that the wheel nvidia-pytriton
brings along under names of its own. Nothing of it is installed or committed.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from generators import Found, Load

__all__ = ["PerfAnalyzer", "fetch_perf_analyzer"]

FOLDER = Path("build/perf_analyzer")
WHEEL = "tritonclient==2.51.0"
"""Later ones need a glibc of 2024."""
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
"""The names that the binary looks for, and those in the wheel nvidia-pytriton."""
PATIENCE_S = 60.0
UNSTABLE, UNSTABLE_TEXT = 2, "Failed to obtain stable measurement"
"""How it ends where its windows are not alike; what it measured may be written all the same."""
WINDOWS = 3
"""It wants as many that are alike, and puts them together; here all are alike enough."""


@dataclass(frozen=True, slots=True)
class PerfAnalyzer:
    """One that runs on this machine."""

    version: str

    def command(self, load: Load, url: str, data: Path) -> list[str]:
        """The command line of a load; without percentiles of every request, see `run`."""
        arguments = [
            str(FOLDER / "perf_analyzer"),
            "-m",
            load.model,
            "-u",
            url.removeprefix("http://"),
            "-i",
            "http" if url.startswith("http://") else "grpc",
            "--input-data",
            str(data),
        ]
        # By --request-count, its rate would be that of whole seconds.
        window_ms = str(round(1000 * load.seconds / WINDOWS))
        arguments += [
            "--measurement-interval",
            window_ms,
            "--max-trials",
            str(WINDOWS),
            "--stability-percentage",
            "999",
        ]
        if load.callers:
            # Its own way: a thread for each caller.
            return [*arguments, "--concurrency-range", str(load.callers), "--sync"]
        rate = f"{load.rate:g}:{load.rate:g}:1"
        arguments += ["--request-rate-range", rate, "--request-distribution", "poisson"]
        return [*arguments, *(["--sync", "--max-threads", str(load.threads)] if load.threads else ["--async"])]

    def run(self, load: Load, url: str, scratch: Path, *, each_request: bool = False) -> Found:
        """Loads a server.

        Args:
            load: what to ask, and how often.
            url: ``HOST:PORT`` of gRPC, or ``http://HOST:PORT``.
            scratch: a folder for its files.
            each_request: makes the figures of the time of each request, for what lies beyond p99, and where it
                calls them unstable; its file holds every video.

        Raises:
            RuntimeError: it failed.
        """
        data, table, requests = (scratch / name for name in ("input.json", "found.csv", "requests.json"))
        _write_data(load, data)
        command = [*self.command(load, url, data), "-f", str(table)]
        if each_request:
            command += ["--profile-export-file", str(requests)]
        for path in (table, requests):
            path.unlink(missing_ok=True)
        said = _run(command, timeout_s=PATIENCE_S + load.seconds)
        has_all = (requests if each_request else table).exists()
        is_unstable = said.returncode == UNSTABLE and UNSTABLE_TEXT in said.stdout + said.stderr
        if is_unstable and not (each_request and has_all):
            raise RuntimeError(f"it ended with exit code {UNSTABLE}, {UNSTABLE_TEXT!r}, and wrote no figures")
        if not has_all or (said.returncode and not is_unstable):
            raise RuntimeError(f"perf_analyzer failed ({said.returncode}): {(said.stderr + said.stdout)[:2000]}")
        if not each_request:
            return _read(said.stdout, table)
        found = _of_each_request(requests)
        return replace(found, finding=f"exit code {UNSTABLE}: {UNSTABLE_TEXT}") if is_unstable else found


def fetch_perf_analyzer() -> PerfAnalyzer:
    """Takes it from the registry that pip knows, once.

    Raises:
        RuntimeError: it cannot be had, or does not run here; says why.
    """
    binary = FOLDER / "perf_analyzer"
    if not binary.exists():
        _download(binary)
    _link_libraries()
    said = subprocess.run([binary, "--version"], env=_environment(), capture_output=True, text=True, check=False)
    found = re.search(r"Version ([\w.]+)", said.stdout + said.stderr)
    if found is None:
        raise RuntimeError(f"perf_analyzer does not run here: {(said.stdout + said.stderr).strip()[-500:]}")
    return PerfAnalyzer(version=f"{found[1]} (of {WHEEL})")


def _download(binary: Path) -> None:
    platform = ["--only-binary", ":all:", "--platform", "manylinux1_x86_64", "--python-version", "3"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL, "--dest", str(FOLDER), *platform]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode:
        raise RuntimeError(f"pip cannot download {WHEEL}: {said.stderr.strip()[-500:]}")
    (wheel,) = FOLDER.glob("tritonclient-*.whl")
    with zipfile.ZipFile(wheel) as files:
        (name,) = [name for name in files.namelist() if name.endswith("/perf_analyzer")]
        content = files.read(name)
    wheel.unlink()
    part = binary.with_suffix(".part")
    part.write_bytes(content)
    part.chmod(0o755)
    part.replace(binary)


def _link_libraries() -> None:
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise RuntimeError("perf_analyzer needs libraries of the wheel nvidia-pytriton, which is not installed")
    bundled = Path(spec.origin).parents[1] / "nvidia_pytriton.libs"
    (FOLDER / "lib").mkdir(parents=True, exist_ok=True)
    for name, pattern in LIBRARIES.items():
        found = sorted(bundled.glob(pattern))
        if not found:
            raise RuntimeError(f"the wheel nvidia-pytriton has no {pattern}, which perf_analyzer needs")
        link = FOLDER / "lib" / name
        link.unlink(missing_ok=True)
        link.symlink_to(found[0])


def _run(command: list[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, env=_environment(), capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise RuntimeError(f"perf_analyzer did not end within {timeout_s:.0f} s") from exc


def _environment() -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": str((FOLDER / "lib").resolve()), "no_proxy": "*"}


def _write_data(load: Load, path: Path) -> None:
    """All videos of the load; in BYTES the length stands before each."""
    videos = [file.read_bytes() for file in sorted(load.videos.iterdir())]
    values = [base64.b64encode(len(video).to_bytes(4, "little") + video).decode() for video in videos]
    path.write_text(json.dumps({"data": [{"VIDEO": {"b64": value}} for value in values]}))


def _read(said: str, table: Path) -> Found:
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    mean, count = re.search(r"Avg latency: (\d+) usec", said), re.search(r"Request count: (\d+)", said)
    if mean is None or count is None:
        raise RuntimeError(f"perf_analyzer says something else than expected: {said[-2000:]}")
    times: dict[str, Any] = {f"{name}_ms": int(row[f"{name} latency"]) / 1000 for name in ("p50", "p90", "p99")}
    return Found(
        rate=float(row["Inferences/Second"]),
        count=int(count[1]),
        mean_ms=int(mean[1]) / 1000,
        **times,
        **_server_side(said),
    )


def _server_side(said: str) -> dict[str, Any]:
    """What it read of Triton's statistics; the public name's come first."""
    count = re.search(r"Successful request count: (\d+)", said)
    times = re.search(
        r"Avg request latency: (\d+) usec \(overhead \d+ usec \+ queue (\d+) usec \+ compute (\d+) usec\)", said
    )
    if count is None or times is None:
        return {}
    mean, queue, compute = (int(time_us) / 1000 for time_us in times.groups())
    return {
        "triton_count": int(count[1]),
        "triton_mean_ms": mean,
        "triton_queue_ms": queue,
        "triton_compute_ms": compute,
    }


def _of_each_request(path: Path) -> Found:
    """The figures of its file of every request, in which the videos are no text."""
    (experiment,) = json.loads(path.read_text(encoding="latin-1"), strict=False)["experiments"]
    answered = [request for request in experiment["requests"] if request["response_timestamps"]]
    if not answered:
        raise RuntimeError("perf_analyzer wrote down no answer")
    sent, ended = np.array([(request["timestamp"], request["response_timestamps"][0]) for request in answered]).T
    times_ms = (ended - sent) / 1e6
    p50, p90, p99, p999 = np.percentile(times_ms, [50, 90, 99, 99.9], method="inverted_cdf")
    return Found(
        rate=float(len(sent) / (ended.max() - sent.min()) * 1e9),
        count=len(sent),
        mean_ms=float(times_ms.mean()),
        p50_ms=float(p50),
        p90_ms=float(p90),
        p99_ms=float(p99),
        p999_ms=float(p999),
        max_ms=float(times_ms.max()),
        beyond_1_s=int((times_ms > 1000).sum()),
    )
