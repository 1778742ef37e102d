"""Names, types and shapes of every tensor that passes between the steps of a served model.

Axes: N frames of a video, F frames that are needed of it, T frames of a clip, t frames of a unit, n units of a clip,
U distinct units, K clips, R crops, V = K*R views (clip-major), S side of a crop, D width of a feature, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tubelet.spec.engine import Target
from tubelet.spec.ensemble import EnsembleContract
from tubelet.spec.manifest import Contract

__all__ = [
    "CHAINS",
    "GRAPH_STEPS",
    "DataType",
    "Signature",
    "Step",
    "TensorSpec",
    "WayIn",
    "answer_names",
    "combine_tensors",
    "step_tensors",
    "ways_in",
]

DataType = Literal["BYTES", "UINT8", "INT32", "FP32", "FP64"]
Step = Literal["sample", "chunks", "units", "encoder", "temporal", "average", "report"]
WayIn = Literal["video", "frames", "chunked", "features"]

GRAPH_STEPS: tuple[Step, ...] = ("units", "encoder", "temporal", "average")
"""The steps of a served model that are graphs in its bundle; the others decode."""

CHAINS: dict[WayIn, tuple[Step, ...]] = {
    "video": ("sample", "units", "encoder", "temporal", "average", "report"),
    "frames": ("sample", "units", "encoder", "temporal", "average", "report"),
    "chunked": ("chunks", "temporal", "average", "report"),
    "features": ("chunks", "temporal", "average", "report"),
}
"""The ways into a model, and the steps behind them; a joint model has no step ``temporal``, target ``cpu`` none called
``report``."""

_OF_FEATURES = ("FEATURES", "POSITIONS")
_OF_VIEWS = ("VIEW_LOGITS", "FRAME_TIMES", "CLIP_SPANS", "ATTENTION")
"""Answers that are as long as there are views, or clips."""


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


def step_tensors(contract: Contract, target: Target = "cpu") -> dict[Step, Signature]:
    """Inputs and outputs of each step of a model, in the order of the data; the encoder's leave out its batch (units).

    A joint model has no step ``temporal``: its encoder gives the LOGITS of whole clips, and ``average`` finds each
    view's row among them. A model that takes any number of frames has a second way to FEATURES, the step ``chunks``: it
    has frames encoded as they come out of the decoder, or takes features that were computed before.

    On target ``gpu`` the steps between the decoder and the answer are the bundle's graphs and nothing else, so
    deadlines and times pass them by, and a last step, ``report``, puts together what callers see.
    """
    x = _Tensors(contract)
    return _gpu_steps(contract, x) if target == "gpu" else _cpu_steps(contract, x)


def _cpu_steps(contract: Contract, x: _Tensors) -> dict[Step, Signature]:
    steps: dict[Step, Signature] = {
        "sample": (_optional(x.sources), (x.raw_frames[0], x.unit_frames, *x.sampled)),
        "units": ((x.raw_frames[0], x.unit_frames, x.crops, x.deadline), x.unit_rows),
        "encoder": (_without_batch(x.unit_rows), _without_batch((x.encoded, x.encoded_at))),
    }
    averaged, ended = (x.encoded_at, x.sample_report, x.deadline), (*x.answers, x.after)
    if contract.is_joint:
        steps["average"] = ((x.unit_logits, x.clip_units, x.crops, *averaged), ended)
        return steps
    if x.view_features:
        steps["chunks"] = (_optional((x.video, *x.view_features)), (x.encoded, *x.sampled, x.encoded_at))
    views = (x.encoded, x.clip_units, *x.clip_positions, x.crops, x.deadline)
    steps["temporal"] = (views, (x.view_logits, *x.attention, *x.view_features))
    steps["average"] = ((x.view_logits, *averaged), ended)
    return steps


def _gpu_steps(contract: Contract, x: _Tensors) -> dict[Step, Signature]:
    steps: dict[Step, Signature] = {
        "sample": (_optional(x.sources), (x.raw_frames[0], x.unit_frames, *x.sampled)),
        "units": ((x.raw_frames[0], x.unit_frames, x.crops), x.unit_rows[:1]),
        "encoder": (_without_batch(x.unit_rows[:1]), _without_batch((x.encoded,))),
    }
    views = (x.encoded, x.clip_units, *x.clip_positions, x.crops)
    shares = x.answers[:-2]
    if contract.is_joint:
        steps["average"] = ((x.unit_logits, x.clip_units, x.crops), (*shares, x.view_logits))
    else:
        if x.view_features:
            steps["chunks"] = (_optional((x.video, *x.view_features)), (x.encoded, *x.sampled))
        steps["temporal"] = (views, (x.view_logits, *x.attention))
        steps["average"] = ((x.view_logits,), shares)
    # Who asks for features gets those of each view, put together here.
    seen = views if x.view_features else ()
    steps["report"] = (
        (*shares, x.view_logits, *seen, x.sample_report, x.deadline),
        (*x.answers, *x.view_features, x.after),
    )
    return steps


def ways_in(contract: Contract) -> dict[WayIn, tuple[str, Signature]]:
    """The ways into a model: the public name of each, its inputs and its outputs.

    ``frames`` takes decoded frames; ``chunked`` a video of which no more than a batch of frames is kept at a time;
    ``features`` what another request gave as FEATURES, and POSITIONS where the model wants them.
    """
    x, name = _Tensors(contract), contract.name
    answer = (*x.answers[:-1], *x.attention)
    seen = (*answer, x.frame_times, x.clip_spans, *x.view_features, x.report)
    ways: dict[WayIn, tuple[str, Signature]] = {
        "video": (name, ((x.video,), seen)),
        "frames": (f"{name}_frames", (x.raw_frames, seen)),
    }
    if x.view_features:
        ways["chunked"] = (f"{name}_chunked", ((x.video,), seen))
        ways["features"] = (f"{name}_features", (x.view_features, (*answer, x.report)))
    return ways


class _Tensors:
    """Every tensor of a model; a tuple holds those that only some models have."""

    def __init__(self, contract: Contract) -> None:
        t, side, _, channels = contract.unit_shape
        geometry, num_classes = contract.geometry, contract.num_classes
        n = -1 if geometry.any_length else contract.units_per_clip
        self.video = TensorSpec("VIDEO", "BYTES", (1,))
        self.raw_frames = (TensorSpec("FRAMES", "UINT8", (-1, -1, -1, channels)), TensorSpec("FPS", "FP32", (1,)))
        # Where models answer together: the DEADLINE that began with the first of them, and what makes this one wait.
        self.after = TensorSpec("AFTER", "FP64", (1,))
        self.unit_frames = TensorSpec("UNIT_FRAMES", "INT32", (-1, t))
        self.clip_units = TensorSpec("CLIP_UNITS", "INT32", (-1, n))
        self.clip_positions = (TensorSpec("CLIP_POSITIONS", "INT32", (-1, n)),) if geometry.positions else ()
        self.crops = TensorSpec("CROPS", "INT32", (-1, 2))
        num_frames = -1 if geometry.any_length else contract.sampler.num_frames
        self.frame_times = TensorSpec("FRAME_TIMES", "FP32", (-1, num_frames))
        self.clip_spans = TensorSpec("CLIP_SPANS", "FP32", (-1, 2))
        self.sample_report = TensorSpec("SAMPLE_REPORT", "BYTES", (1,))
        self.deadline = TensorSpec("DEADLINE", "FP64", (1,))
        self.sources = (self.video, *self.raw_frames, self.after)
        clips = (self.clip_units, *self.clip_positions, self.crops)
        self.sampled = (*clips, self.frame_times, self.clip_spans, self.sample_report, self.deadline)
        units = TensorSpec("UNITS", "UINT8", (-1, t, side, side, channels))
        self.unit_rows = (units, TensorSpec("UNIT_DEADLINES", "FP64", (-1, 1)))
        self.encoded_at = TensorSpec("ENCODED_AT", "FP64", (-1, 2))
        self.encoded = TensorSpec("LOGITS", "FP32", (-1, num_classes))
        # An ONNX graph cannot have an input and an output of one name.
        self.unit_logits = replace(self.encoded, name="UNIT_LOGITS", source="LOGITS")
        self.view_features: tuple[TensorSpec, ...] = ()
        if geometry.feature_dim is not None:
            self.encoded = TensorSpec("FEATURES", "FP32", (-1, geometry.feature_dim))
        # Of units that are single frames: those can be encoded as they come, and make clips of any length.
        if geometry.feature_dim is not None and geometry.any_length and geometry.unit_frames == 1:
            positions = (TensorSpec("POSITIONS", "INT32", (-1, -1)),) if geometry.positions else ()
            self.view_features = (TensorSpec("FEATURES", "FP32", (-1, -1, geometry.feature_dim)), *positions)
        self.attention = (TensorSpec("ATTENTION", "FP32", (-1, n)),) if geometry.attention else ()
        self.view_logits = TensorSpec("VIEW_LOGITS", "FP32", (-1, num_classes))
        self.report = TensorSpec("REPORT", "BYTES", (1,))
        shares = [TensorSpec(name, "FP32", (num_classes,)) for name in ("LOGITS", "PROBABILITIES")]
        product = [TensorSpec("PRODUCT", "FP32", (contract.num_products,))] if contract.product is not None else []
        self.answers = (*shares, *product, self.view_logits, self.report)


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


def answer_names(
    contract: Contract | EnsembleContract,
    way: WayIn = "video",
    *,
    with_features: bool = False,
    with_views: bool = True,
) -> tuple[str, ...]:
    """What a caller asks for: all that a way in answers with, but for what is not wanted."""
    if isinstance(contract, EnsembleContract):
        _, answer = combine_tensors(contract)
    else:
        _, (_, answer) = ways_in(contract)[way]
    unwanted = (*(() if with_features else _OF_FEATURES), *(() if with_views else _OF_VIEWS))
    return tuple(spec.name for spec in answer if spec.name not in unwanted)


def _optional(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(replace(spec, optional=True) for spec in specs)


def _without_batch(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(spec.name, spec.dtype, spec.shape[1:]) for spec in specs)
