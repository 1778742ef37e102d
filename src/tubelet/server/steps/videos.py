"""What the steps that read videos have in common: the tensors that say what the views are, and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tubelet.preprocess.prepare import Prepared
from tubelet.server.metrics import StepMetrics
from tubelet.server.steps.base import Arrays, text_tensor
from tubelet.spec.request import Request

__all__ = ["count_video", "features_report_tensor", "report_tensor", "view_tensors"]


def view_tensors(prepared: Prepared, *, deadline: float) -> Arrays:
    """What later steps need beside pixels or features; SAMPLE_REPORT is not among it."""
    return {
        "CLIP_UNITS": prepared.clip_units,
        "CLIP_POSITIONS": prepared.clip_positions,
        "CROPS": prepared.crops,
        "FRAME_TIMES": prepared.frame_times,
        "CLIP_SPANS": prepared.clip_spans,
        "DEADLINE": np.array([deadline]),
    }


def report_tensor(
    prepared: Prepared, request: Request, *, started: float, num_encoded: int, milliseconds: Mapping[str, float]
) -> NDArray[np.object_]:
    """SAMPLE_REPORT: what the last step writes into REPORT, and ``started`` and ``ended`` for its own sums.

    Args:
        prepared: the video.
        request: gives the protocol's name.
        started: when the work began, a value of ``time.monotonic()``.
        num_encoded: units that have been or will be encoded.
        milliseconds: of this step, beside those of ``prepared``.
    """
    num_crops = len(prepared.crops)
    return _report(
        protocol=request.protocol.name,
        warnings=prepared.warnings,
        duration_s=prepared.duration_s,
        frames=prepared.num_frames,
        frames_decoded=prepared.frames_decoded,
        views=len(prepared.clip_units) * num_crops,
        units_wanted=prepared.clip_units.size * num_crops,
        units_encoded=num_encoded,
        milliseconds={**prepared.milliseconds, **milliseconds},
        started=started,
    )


def features_report_tensor(
    *, num_views: int, clip_units: int, started: float, milliseconds: Mapping[str, float]
) -> NDArray[np.object_]:
    """SAMPLE_REPORT of a request that brings features ``[num_views, clip_units, D]``: nothing is decoded or encoded."""
    return _report(
        protocol="features",
        warnings=(),
        duration_s=None,
        frames=0,
        frames_decoded=0,
        views=num_views,
        units_wanted=num_views * clip_units,
        units_encoded=0,
        milliseconds=dict(milliseconds),
        started=started,
    )


def _report(**values: object) -> NDArray[np.object_]:
    return text_tensor(json.dumps(values | {"ended": time.monotonic()}))


def count_video(metrics: StepMetrics, prepared: Prepared) -> None:
    """Counts what a video cost."""
    metrics.add("tubelet_videos_total", 1)
    metrics.add("tubelet_frames_decoded_total", prepared.frames_decoded)
    metrics.add("tubelet_decode_seconds_total", prepared.milliseconds["decode"] / 1000)
    metrics.add("tubelet_units_wanted_total", prepared.clip_units.size * len(prepared.crops))
    if prepared.decoder == "nvdec":
        metrics.add("tubelet_gpu_decoded_videos_total", 1)
    if prepared.refusal:
        metrics.count_fallback(prepared.refusal)
