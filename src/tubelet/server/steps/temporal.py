"""Fourth step of two-stage models: the features of each view's units become its logits."""

from __future__ import annotations

from collections.abc import Mapping

from tubelet.engines import Engine
from tubelet.server.steps.base import Arrays, SingleStep
from tubelet.spec.errors import InvalidRequestError

__all__ = ["TritonPythonModel"]


class TritonPythonModel(SingleStep):
    """FEATURES float32 ``[U*R, D]``, CLIP_UNITS, CROPS -> VIEW_LOGITS float32 ``[K*R, C]``."""

    name = "temporal"
    engine: Engine

    def open(self) -> None:
        # A few tokens for each view: waking a second thread costs more than it brings.
        self.engine = self.open_graph("temporal.onnx", threads=1)

    def run(self, inputs: Arrays, parameters: Mapping[str, object]) -> Arrays:
        self.check_views(len(inputs["CLIP_UNITS"]) * len(inputs["CROPS"]))
        num_units = len(inputs["FEATURES"]) // max(1, len(inputs["CROPS"]))
        clip_units = inputs["CLIP_UNITS"]
        if not clip_units.size or clip_units.min() < 0 or clip_units.max() >= num_units:
            raise InvalidRequestError("bad_input", f"CLIP_UNITS must name units from 0 to {num_units - 1}")
        return self.engine.run(inputs)
