"""Many views in one request: a video is decoded once, and each distinct unit encoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from direct import Direct
from served import Server
from timing import in_turns, spread
from views import ThroughTriton

from tubelet.clients import VideoClassifier
from tubelet.clients.results import Classification
from tubelet.spec.protocol import Protocol

__all__ = ["against_single_views", "against_unshared_units"]


def against_single_views(model: str, server: Server, video: bytes, *, protocol: str, rounds: int) -> dict[str, Any]:
    """One request with many views against as many requests with one view, by the same server.

    The single requests are spread evenly over the rounds, so that there are as many of them as views in one request.
    """
    num_views = Protocol.parse(protocol).num_views
    counted: list[dict[str, float]] = []
    with VideoClassifier(server.addresses["grpc"]) as classifier, server.undisturbed():
        together, single = (ThroughTriton(classifier, video, name) for name in (protocol, "1x1"))

        def all_together() -> None:
            before = server.metrics(model)
            together()
            counted.append(_difference(server.metrics(model), before))

        def all_single() -> None:
            for _ in range(num_views // rounds):
                single()

        single()
        single.answers.clear()
        seconds = in_turns({"together": all_together, "single": all_single}, rounds=rounds)
    return {
        "protocol": protocol,
        "seconds": {
            "together": spread(seconds["together"]),
            "single_view": spread([answer.round_trip_ms / 1000 for answer in single.answers]),
        },
        "ratio": round(sum(seconds["together"]) / rounds / sum(seconds["single"]), 4),
        "videos_decoded": counted[-1]["tubelet_videos_total"],
        "frames_decoded": counted[-1]["tubelet_frames_decoded_total"],
        **_units(together.answers[-1]),
        "triton_split_ms": together.split(),
    }


def against_unshared_units(bundle: Path, server: Server, video: bytes, *, protocol: str, rounds: int) -> dict[str, Any]:
    """One request with many views against encoding as many units as they have, repetitions and all.

    The units are encoded by the same engine at the same precision in this process, in batches as large as the server's
    and without a decoder, which is the hardest comparison.
    """
    direct = Direct(bundle, "openvino", "bf16")
    ready = direct.prepare(video, protocol)
    wanted = ready.feeds["CLIP_UNITS"].size * len(ready.feeds["CROPS"])
    rows = np.resize(np.arange(len(ready.units)), wanted // rounds)
    with VideoClassifier(server.addresses["grpc"]) as classifier, server.undisturbed():
        together = ThroughTriton(classifier, video, protocol)
        units = ready.units[rows]
        direct.encode(units[: direct.largest_batch])
        seconds = in_turns({"together": together, "unshared": lambda: direct.encode(units)}, rounds=rounds)
    counts = _units(together.answers[-1])
    return {
        "protocol": protocol,
        "seconds": {name: spread(times) for name, times in seconds.items()},
        "ratio": round(sum(seconds["together"]) / rounds / sum(seconds["unshared"]), 4),
        "distinct_to_wanted": round(counts["units_encoded"] / counts["units_wanted"], 4),
        **counts,
        "triton_split_ms": together.split(),
    }


def _units(answer: Classification) -> dict[str, int]:
    return {"units_wanted": answer.report.units_wanted, "units_encoded": answer.report.units_encoded}


def _difference(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in after.items()}
