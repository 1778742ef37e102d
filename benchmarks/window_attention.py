"""Measures VTN's temporal stage at its released size: attention in chunks of several lengths against dense attention.

python benchmarks/window_attention.py [--rounds 5] [--limit-gib 8] [--out benchmarks/results/NAME.json]

Each graph runs in a process of its own, on one thread of ONNX Runtime with the options that serve. Times are those that
the processor worked, in the fastest round: other work on the machine only adds. Memory is how much the process grew
during the runs, weights not counted; a graph that needs more than the limit is noted as such.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from tubelet.engines.base import EngineSettings
from tubelet.engines.open import open_engine
from tubelet.models import longformer, window_attention
from tubelet.models.longformer import Longformer, LongformerSizes

WIDTH = 768
SIZES = LongformerSizes(
    num_heads=12, mlp_width=3072, attention_window=(18, 18, 18), positions="learned", max_positions=288
)
GRAPHS = ("chunks of 8", "chunks of 16", "chunks of 32", "chunks of 64", "dense")
SHAPES = ((30, 16), (1, 250), (1, 2500), (1, 10_000))
"""Views and frames: the multi-view protocol, the whole-video protocol, and longer videos."""
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit-gib", type=int, default=8)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--export", nargs=2, metavar=("GRAPH", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=3, metavar=("FILE", "V", "n"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments.export[0], Path(arguments.export[1]))
        return
    if arguments.measure:
        file, num_views, n = arguments.measure
        resource.setrlimit(resource.RLIMIT_AS, (arguments.limit_gib * GIB,) * 2)
        print(json.dumps(measure(Path(file), int(num_views), int(n), arguments.rounds)))  # noqa: T201
        return
    text = json.dumps({"machine": machine(), "temporal_stage": compare(arguments)}, indent=2)
    print(text)  # noqa: T201
    if arguments.out:
        arguments.out.write_text(text + "\n")


def compare(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Figures by views and frames, then by graph."""
    figures: dict[str, dict[str, Any]] = {f"{num_views} x {n} frames": {} for num_views, n in SHAPES}
    with tempfile.TemporaryDirectory() as folder:
        for graph in GRAPHS:
            file = Path(folder) / "temporal.onnx"
            run("--export", graph, str(file))
            for num_views, n in SHAPES:
                limits = [f"--rounds={arguments.rounds}", f"--limit-gib={arguments.limit_gib}"]
                answer = run(*limits, "--measure", str(file), str(num_views), str(n), may_fail=True)
                figures[f"{num_views} x {n} frames"][graph] = (
                    json.loads(answer) if answer else f"needs more than {arguments.limit_gib} GiB of address space"
                )
    return figures


def run(*arguments: str, may_fail: bool = False) -> str:
    """Runs this file again; what it printed, or nothing if it failed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode and not (may_fail and "Failed to allocate memory" in done.stderr):
        raise RuntimeError(done.stderr)
    return "" if done.returncode else done.stdout


def export(graph: str, file: Path) -> None:
    patched = (
        mock.patch.object(longformer, "window_attention", dense_attention)
        if graph == "dense"
        else mock.patch.multiple(window_attention, CHUNK_FRAMES=int(graph.removeprefix("chunks of ")))
    )
    torch.manual_seed(0)
    model = Longformer(SIZES, width=WIDTH).eval()
    nn.init.normal_(model.class_token)
    views, n = torch.export.Dim("V"), torch.export.Dim("n")
    with patched:
        program = torch.onnx.export(
            model,
            (torch.zeros(2, 16, WIDTH), torch.zeros(2, 16, dtype=torch.int32)),
            input_names=["FEATURES", "POSITIONS"],
            dynamic_shapes=({0: views, 1: n}, {0: views, 1: n}),
            opset_version=20,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101
    program.save(file)


def measure(file: Path, num_views: int, n: int, rounds: int) -> dict[str, float]:
    engine = open_engine(file, EngineSettings.small("onnxruntime"))
    features = np.random.default_rng(0).standard_normal((num_views, n, WIDTH), dtype=np.float32)
    positions = np.tile(np.arange(n, dtype=np.int32), (num_views, 1))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, milliseconds = status("VmRSS"), []
    for _ in range(1 + rounds):
        begun = time.process_time()
        engine.run({"FEATURES": features, "POSITIONS": positions})
        milliseconds.append((time.process_time() - begun) * 1000)
    return {
        "milliseconds": round(min(milliseconds[1:]), 1),
        "peak_mib": round((status("VmHWM") - before) / 1024, 1),
    }


def status(name: str) -> int:
    """A line of this process's status, in KiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0])


def dense_attention(query: Tensor, key: Tensor, value: Tensor, *, reach: int) -> Tensor:
    """As `tubelet.models.window_attention.window_attention`, with a row of scores for all frames of the clip."""
    place = torch.arange(query.shape[1] + 1)
    is_seen = ((place[1:, None] - place).abs() <= reach) | (place == 0)  # [n, 1+n]
    queries, keys, values = (part.transpose(1, 2) for part in (query, key, value))
    scores = queries @ keys.transpose(2, 3) * query.shape[3] ** -0.5  # [V, H, n, 1+n]
    mixed: Tensor = scores.masked_fill(~is_seen, float("-inf")).softmax(dim=3) @ values
    return mixed.transpose(1, 2)


def machine() -> str:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // GIB
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0].split(': ')[1]}, {os.cpu_count()} cores, {memory_gib} GiB, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
