"""Names, types and shapes of every tensor that passes between the steps of a served model.

Axes: N frames of a video, F frames that are needed of it, T frames of a clip, t frames of a unit, n units of a clip,
U distinct units, K clips, R crops, V = K*R views (clip-major), S side of a crop, D width of a feature, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tubelet.spec.ensemble import EnsembleContract
from tubelet.spec.manifest import Contract

__all__ = [
    "GRAPH_STEPS",
    "DataType",
    "Signature",
    "Step",
    "TensorSpec",
    "answer_names",
    "combine_tensors",
    "step_tensors",
]

DataType = Literal["BYTES", "UINT8", "INT32", "FP32", "FP64"]
Step = Literal["ensemble", "frames_ensemble", "sample", "units", "encoder", "temporal", "average"]

GRAPH_STEPS: tuple[Step, ...] = ("units", "encoder", "temporal", "average")
"""The steps of a served model that are graphs in its bundle; the other, ``sample``, decodes."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name, its KServe data type, and its shape with -1 where it varies."""

    name: str
    dtype: DataType
    shape: tuple[int, ...]
    optional: bool = False
    source: str | None = None
    """Name under which an earlier step gives this input, where it is another."""


Signature = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
"""Inputs and outputs."""


def step_tensors(contract: Contract) -> dict[Step, Signature]:
    """Inputs and outputs of each step of a model, in the order of the data; the encoder's leave out its batch (units).

    A joint model has no step ``temporal``: its encoder gives the LOGITS of whole clips, and ``average`` finds each
    view's row among them.
    """
    t, side, _, channels = contract.unit_shape
    any_length, num_classes = contract.geometry.any_length, contract.num_classes
    video = TensorSpec("VIDEO", "BYTES", (1,))
    raw_frames = (TensorSpec("FRAMES", "UINT8", (-1, -1, -1, channels)), TensorSpec("FPS", "FP32", (1,)))
    frames = raw_frames[0]
    # The report of the member before, where models answer together: nothing is read in it, it makes this one wait.
    after = TensorSpec("AFTER", "BYTES", (1,))
    unit_frames = TensorSpec("UNIT_FRAMES", "INT32", (-1, t))
    n = -1 if any_length else contract.units_per_clip
    clip_units = TensorSpec("CLIP_UNITS", "INT32", (-1, n))
    crops = TensorSpec("CROPS", "INT32", (-1, 2))
    frame_times = TensorSpec("FRAME_TIMES", "FP32", (-1, -1 if any_length else contract.sampler.num_frames))
    sample_report = TensorSpec("SAMPLE_REPORT", "BYTES", (1,))
    deadline = TensorSpec("DEADLINE", "FP64", (1,))
    encoded_at = TensorSpec("ENCODED_AT", "FP64", (-1, 2))
    view_logits = TensorSpec("VIEW_LOGITS", "FP32", (-1, num_classes))
    logits = TensorSpec("LOGITS", "FP32", (num_classes,))
    probabilities = TensorSpec("PROBABILITIES", "FP32", (num_classes,))
    report = TensorSpec("REPORT", "BYTES", (1,))
    unit_rows = (
        TensorSpec("UNITS", "UINT8", (-1, t, side, side, channels)),
        TensorSpec("UNIT_DEADLINES", "FP64", (-1, 1)),
    )
    positions = (TensorSpec("CLIP_POSITIONS", "INT32", (-1, n)),) if contract.geometry.positions else ()
    attention = (TensorSpec("ATTENTION", "FP32", (-1, n)),) if contract.geometry.attention else ()
    product = (TensorSpec("PRODUCT", "FP32", (contract.num_products,)),) if contract.product is not None else ()
    answer = (logits, probabilities, *product, view_logits, frame_times, *attention, report)
    steps: dict[Step, Signature] = {
        "ensemble": ((video,), answer),
        "frames_ensemble": (raw_frames, answer),
        "sample": (
            tuple(replace(spec, optional=True) for spec in (video, *raw_frames, after)),
            (frames, unit_frames, clip_units, *positions, crops, frame_times, sample_report, deadline),
        ),
        "units": ((frames, unit_frames, crops, deadline), unit_rows),
    }
    averaged = (encoded_at, sample_report, deadline)
    answers = (logits, probabilities, *product, view_logits, report)
    if contract.geometry.feature_dim is None:
        # An ONNX graph cannot have an input and an output of one name.
        unit_logits = TensorSpec("UNIT_LOGITS", "FP32", (-1, num_classes), source="LOGITS")
        encoded = TensorSpec("LOGITS", "FP32", (-1, num_classes))
        steps["encoder"] = (_without_batch(unit_rows), _without_batch((encoded, encoded_at)))
        steps["average"] = ((unit_logits, clip_units, crops, *averaged), answers)
    else:
        features = TensorSpec("FEATURES", "FP32", (-1, contract.geometry.feature_dim))
        steps["encoder"] = (_without_batch(unit_rows), _without_batch((features, encoded_at)))
        steps["temporal"] = ((features, clip_units, *positions, crops), (view_logits, *attention))
        steps["average"] = ((view_logits, *averaged), answers)
    return steps


def combine_tensors(contract: EnsembleContract) -> Signature:
    """Inputs and outputs of the step that makes one answer of several models' answers."""
    num_classes = contract.num_classes
    answer = (
        TensorSpec("LOGITS", "FP32", (num_classes,)),
        TensorSpec("VIEW_LOGITS", "FP32", (-1, num_classes)),
        TensorSpec("REPORT", "BYTES", (1,)),
    )
    members = range(len(contract.members))
    inputs = tuple(replace(spec, name=f"{spec.name}_{i}") for i in members for spec in answer)
    return inputs, (answer[0], TensorSpec("PROBABILITIES", "FP32", (num_classes,)), *answer[1:])


def answer_names(contract: Contract | EnsembleContract) -> tuple[str, ...]:
    """What the public name of a model answers with."""
    if isinstance(contract, EnsembleContract):
        return tuple(spec.name for spec in combine_tensors(contract)[1])
    return tuple(spec.name for spec in step_tensors(contract)["ensemble"][1])


def _without_batch(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(spec.name, spec.dtype, spec.shape[1:]) for spec in specs)
