"""Fourth step of two-stage models: the features of each view's units become its logits."""

from __future__ import annotations

from collections.abc import Mapping

from tubelet.engines import Engine
from tubelet.server.steps.base import Arrays, SingleStep

__all__ = ["TritonPythonModel"]


class TritonPythonModel(SingleStep):
    """FEATURES float32 ``[U*R, D]``, CLIP_UNITS, CROPS -> VIEW_LOGITS float32 ``[K*R, C]``."""

    name = "temporal"
    engine: Engine

    def open(self) -> None:
        # A few tokens for each view: waking a second thread costs more than it brings.
        self.engine = self.open_graph("temporal.onnx", threads=1)

    def run(self, inputs: Arrays, parameters: Mapping[str, object]) -> Arrays:
        return self.engine.run(inputs)
