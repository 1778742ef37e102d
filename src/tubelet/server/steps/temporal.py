"""Fourth step of two-stage models: the features of each view's units become its logits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tubelet.engines.base import Engine, EngineSettings
from tubelet.server.steps.answers import features_of_views
from tubelet.server.steps.base import Arrays, Call, SingleStep, check_caller, check_deadline
from tubelet.spec.engine import graph_file
from tubelet.spec.errors import InvalidRequestError, LimitError

__all__ = ["TritonPythonModel"]

GROUP_UNITS = 2048
"""Units of the clips that the engine gets at once: their memory, and the work between two looks at the deadline.

A unit costs a thousandth here of what its encoding costs (VTN, ViT-B: 0.04 of 35 GFLOP), so a group costs less than a
batch of the encoder. Requests of up to 64 views of 32 units are one group."""


class TritonPythonModel(SingleStep):
    """FEATURES float32 ``[U*R, D]``, CLIP_UNITS, CROPS -> VIEW_LOGITS float32 ``[K*R, C]``.

    Of a model that takes them also CLIP_POSITIONS int32 ``[K, n]``; of one that gives it also ATTENTION ``[K*R, n]``.
    Who asks for them gets FEATURES ``[K*R, n, D]`` and POSITIONS ``[K*R, n]``: what the graph sees of each view.
    """

    name = "temporal"
    engine: Engine

    def open(self) -> None:
        name = graph_file("temporal")
        self.engine = self.open_graph(name, EngineSettings.of_temporal(self.running.engine, self.folder / name))

    def run(self, call: Call) -> Arrays:
        self._check(call.inputs)
        answers = []
        for clips in _groups(*call.inputs["CLIP_UNITS"].shape, num_crops=len(call.inputs["CROPS"])):
            check_caller(call.is_cancelled)
            check_deadline(float(call.inputs["DEADLINE"][0]))
            by_clip = {
                name: call.inputs[name][clips] for name in ("CLIP_UNITS", "CLIP_POSITIONS") if name in call.inputs
            }
            answers.append(self.engine.run({**call.inputs, **by_clip}))
        outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
        return outputs | features_of_views(call)

    def _check(self, inputs: Arrays) -> None:
        """The steps before give only what fits; this step can be called without them."""
        clip_units, num_crops = inputs["CLIP_UNITS"], len(inputs["CROPS"])
        self.check_views(len(clip_units) * num_crops)
        if clip_units.shape[1] > (most := self.most_units_per_clip):
            raise LimitError("too_many_views", f"clips of {clip_units.shape[1]} units came, {most} are allowed")
        self.check_units(clip_units, num_units=len(inputs["FEATURES"]) // max(1, num_crops))
        positions = inputs.get("CLIP_POSITIONS", clip_units)
        if positions.shape != clip_units.shape or positions.min() < 0:
            raise InvalidRequestError("bad_input", "CLIP_POSITIONS must give a number from 0 for each of CLIP_UNITS")


def _groups(num_clips: int, clip_units: int, *, num_crops: int) -> Iterator[slice]:
    """Clips that are computed together; a clip is never divided."""
    size = max(1, GROUP_UNITS // (clip_units * num_crops))
    for first in range(0, num_clips, size):
        yield slice(first, first + size)
