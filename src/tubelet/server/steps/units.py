"""Second step: cuts the encoder's inputs out of the frames."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tubelet.preprocess.geometry import cut_units
from tubelet.server.steps.base import Arrays, SingleStep, check_deadline

__all__ = ["TritonPythonModel"]


class TritonPythonModel(SingleStep):
    """FRAMES, UNIT_FRAMES, CROPS -> UNITS uint8 ``[U*R, t, S, S, 3]``, the encoder's batch."""

    name = "units"

    def run(self, inputs: Arrays, parameters: Mapping[str, object]) -> Arrays:
        deadline = float(inputs["DEADLINE"][0])
        check_deadline(deadline)
        size_px = self.contract.crop.size_px
        units = cut_units(inputs["FRAMES"], inputs["UNIT_FRAMES"], inputs["CROPS"], size_px=size_px)
        return {"UNITS": units, "UNIT_DEADLINES": np.full((len(units), 1), deadline)}
