"""Fourth step of two-stage models: the features of each view's units become its logits."""

from __future__ import annotations

from collections.abc import Mapping

from tubelet.engines.base import Engine, EngineSettings
from tubelet.server.steps.base import Arrays, SingleStep
from tubelet.spec.errors import InvalidRequestError, LimitError

__all__ = ["TritonPythonModel"]


SMALL_GRAPH_BYTES = 16_000_000
"""A few small layers over a few tokens: waking a second thread costs more than it brings."""


class TritonPythonModel(SingleStep):
    """FEATURES float32 ``[U*R, D]``, CLIP_UNITS, CROPS -> VIEW_LOGITS float32 ``[K*R, C]``.

    Of a model that takes them also CLIP_POSITIONS int32 ``[K, n]``; of one that gives it also ATTENTION ``[K*R, n]``.
    """

    name = "temporal"
    engine: Engine

    def open(self) -> None:
        weights = sum(file.stat().st_size for file in self.folder.glob("temporal.onnx*"))
        engine = self.running.engine
        is_small = weights < SMALL_GRAPH_BYTES
        settings = EngineSettings.small(engine) if is_small else EngineSettings.of_mode(engine, "fp32", "latency")
        self.engine = self.open_graph("temporal.onnx", settings)

    def run(self, inputs: Arrays, parameters: Mapping[str, object]) -> Arrays:
        clip_units, num_crops = inputs["CLIP_UNITS"], len(inputs["CROPS"])
        self.check_views(len(clip_units) * num_crops)
        if clip_units.shape[1] > (most := self.contract.most_units_per_clip):
            raise LimitError("too_many_views", f"clips of {clip_units.shape[1]} units came, the model's have {most}")
        self.check_units(clip_units, num_units=len(inputs["FEATURES"]) // max(1, num_crops))
        positions = inputs.get("CLIP_POSITIONS", clip_units)
        if positions.shape != clip_units.shape or positions.min() < 0:
            raise InvalidRequestError("bad_input", "CLIP_POSITIONS must give a number from 0 for each of CLIP_UNITS")
        return self.engine.run(inputs)
