"""One view of each network: by its peer, by each engine, and through Triton from the bytes of a video."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from direct import Direct
from full_size import gflop
from machine import GemmPeak
from peers import peers
from served import Server
from timing import in_turns, spread

from tubelet.clients import VideoClassifier
from tubelet.clients.results import Classification
from tubelet.spec.engine import Arithmetic

__all__ = ["CASES", "Case", "measure_view"]

ENGINES: tuple[Arithmetic, ...] = (
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
TRITON = "triton_bf16"
DIRECT = "direct_bf16"
"""Decode and engine in this process: what Triton adds to this is its price."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A network and a protocol of one view."""

    name: str
    title: str
    protocol: str = "1x1"
    num_frames: int | None = None
    """Of a view, where the protocol has a length of its own."""
    rounds: int = 4
    warm_up: bool = True

    @property
    def key(self) -> str:
        return f"{self.name}_{self.protocol}"


CASES = (
    Case(name="vivit_b_16x2_k400", title="ViViT-B/16x2 Model 1", rounds=3),
    Case(name="vivit_b_16x2_fe_k400", title="ViViT-B/16x2 FE"),
    Case(name="vtn_vit_b_k400", title="VTN ViT-B, 16 frames"),
    # A view takes a minute by some, and the graphs are warm from the case before.
    Case(
        name="vtn_vit_b_k400", title="VTN ViT-B, 250 frames", protocol="full", num_frames=250, rounds=1, warm_up=False
    ),
    Case(name="vidtr_s_k400", title="VidTr-S"),
    Case(name="cvidtr_s_k400", title="C-VidTr-S"),
)


class ThroughTriton:
    """A caller with one request at a time, who keeps the answers."""

    def __init__(self, classifier: VideoClassifier, video: bytes, protocol: str) -> None:
        self._classifier, self._video, self._protocol = classifier, video, protocol
        self.answers: list[Classification] = []

    def __call__(self) -> np.ndarray[Any, Any]:
        self.answers.append(self._classifier.classify(self._video, protocol=self._protocol))
        return self.answers[-1].logits

    def split(self) -> dict[str, float]:
        """Where the time went, in milliseconds: the server's own account, and what is not in it."""
        reports = [answer.report.milliseconds for answer in self.answers]
        steps = {step: statistics.median(report[step] for report in reports) for step in reports[0]}
        steps["network_and_queue"] = statistics.median(answer.network_ms for answer in self.answers)
        return {step: round(value, 1) for step, value in steps.items()}


def measure_view(case: Case, bundle: Path, server: Server, video: bytes) -> dict[str, Any]:
    """Seconds of everyone, in turns, and their parts of this machine's matrix products, taken in the same rounds."""
    engines = {f"{engine}_{precision}": Direct(bundle, engine, precision) for engine, precision in ENGINES}
    best = engines["openvino_bf16"]
    ready = best.prepare(video, case.protocol)
    with VideoClassifier(server.addresses["grpc"]) as classifier, server.undisturbed():
        triton = ThroughTriton(classifier, video, case.protocol)
        calls: dict[str, Callable[[], object]] = dict(peers(case.name, best.contract, ready))
        calls |= {name: partial(direct.infer, ready) for name, direct in engines.items()}
        calls |= {DIRECT: partial(best.classify, video, case.protocol), TRITON: triton}
        if case.warm_up:
            in_turns(calls, rounds=1)
            triton.answers.clear()
        peak = GemmPeak()
        seconds = in_turns(calls, rounds=case.rounds, before_round=peak.measure)
        peak.measure()
        found = _figures(seconds, peak, gflop(case.name, num_frames=case.num_frames))
        found["triton_split_ms"] = triton.split()
        found["cosine_with_openvino_fp32"] = _cosines({name: direct.infer(ready) for name, direct in engines.items()})
    return {"title": case.title, "protocol": case.protocol, **found}


def _figures(seconds: dict[str, list[float]], peak: GemmPeak, gflop: float) -> dict[str, Any]:
    rates = {name: gflop / statistics.median(times) for name, times in seconds.items()}
    return {
        "gflop": round(gflop, 1),
        "gemm_gflops": peak.to_json(),
        "seconds": {name: spread(times) for name, times in seconds.items()},
        # int8 has no peak of its own here, and is held against that of bf16.
        "of_peak": {
            name: round(rate / peak.best("fp32" if name.endswith("fp32") else "bf16"), 3)
            for name, rate in rates.items()
        },
        "triton_to_direct": round(_paired(seconds[TRITON], seconds[DIRECT]), 3),
    }


def _paired(one: list[float], other: list[float]) -> float:
    """Median of the ratios round by round: what slows a round down slows both."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def _cosines(logits: dict[str, np.ndarray[Any, Any]]) -> dict[str, float]:
    """Whether all compute the same; random weights say nothing about the accuracy of trained ones."""
    reference = logits["openvino_fp32"]
    return {
        name: round(float(a @ reference / np.linalg.norm(a) / np.linalg.norm(reference)), 6)
        for name, a in logits.items()
    }
