"""Names, types and shapes of every tensor that passes between the steps of a served model.

Axes: N frames of a video, F frames that are needed of it, T frames of a clip, t frames of a unit, n units of a clip,
U distinct units, K clips, R crops, V = K*R views (clip-major), S side of a crop, D width of a feature, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tubelet.spec.manifest import Contract

__all__ = ["DataType", "Step", "TensorSpec", "step_tensors"]

DataType = Literal["BYTES", "UINT8", "INT32", "FP32", "FP64"]
Step = Literal["ensemble", "frames_ensemble", "sample", "units", "encoder", "temporal", "average"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name, its KServe data type, and its shape with -1 where it varies."""

    name: str
    dtype: DataType
    shape: tuple[int, ...]
    optional: bool = False


def step_tensors(
    contract: Contract,
) -> dict[Step, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]:
    """Inputs and outputs of each step of a model; the encoder's leave out its batch axis (units)."""
    t, side, _, channels = contract.unit_shape
    num_classes, feature_dim = contract.num_classes, contract.geometry.feature_dim
    video = TensorSpec("VIDEO", "BYTES", (1,))
    raw_frames = (TensorSpec("FRAMES", "UINT8", (-1, -1, -1, channels)), TensorSpec("FPS", "FP32", (1,)))
    frames = raw_frames[0]
    unit_frames = TensorSpec("UNIT_FRAMES", "INT32", (-1, t))
    clip_units = TensorSpec("CLIP_UNITS", "INT32", (-1, contract.units_per_clip))
    crops = TensorSpec("CROPS", "INT32", (-1, 2))
    frame_times = TensorSpec("FRAME_TIMES", "FP32", (-1, contract.sampler.num_frames))
    sample_report = TensorSpec("SAMPLE_REPORT", "BYTES", (1,))
    deadline = TensorSpec("DEADLINE", "FP64", (1,))
    features = TensorSpec("FEATURES", "FP32", (-1, feature_dim))
    encoded_at = TensorSpec("ENCODED_AT", "FP64", (-1, 2))
    view_logits = TensorSpec("VIEW_LOGITS", "FP32", (-1, num_classes))
    logits = TensorSpec("LOGITS", "FP32", (num_classes,))
    probabilities = TensorSpec("PROBABILITIES", "FP32", (num_classes,))
    report = TensorSpec("REPORT", "BYTES", (1,))
    answer = (logits, probabilities, view_logits, frame_times, report)
    unit_rows = (
        TensorSpec("UNITS", "UINT8", (-1, t, side, side, channels)),
        TensorSpec("UNIT_DEADLINES", "FP64", (-1, 1)),
    )
    return {
        "ensemble": ((video,), answer),
        "frames_ensemble": (raw_frames, answer),
        "sample": (
            tuple(replace(spec, optional=True) for spec in (video, *raw_frames)),
            (frames, unit_frames, clip_units, crops, frame_times, sample_report, deadline),
        ),
        "units": ((frames, unit_frames, crops, deadline), unit_rows),
        "encoder": (_without_batch(unit_rows), _without_batch((features, encoded_at))),
        "temporal": ((features, clip_units, crops), (view_logits,)),
        "average": (
            (view_logits, encoded_at, sample_report, deadline),
            (logits, probabilities, view_logits, report),
        ),
    }


def _without_batch(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(spec.name, spec.dtype, spec.shape[1:]) for spec in specs)
