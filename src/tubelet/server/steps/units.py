"""Second step: cuts the encoder's inputs out of the frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tubelet.preprocess.geometry import cut_units
from tubelet.server.steps.base import Arrays, Call, SingleStep, check_deadline
from tubelet.spec.errors import InvalidRequestError, LimitError

__all__ = ["TritonPythonModel"]


class TritonPythonModel(SingleStep):
    """FRAMES, UNIT_FRAMES, CROPS -> UNITS uint8 ``[U*R, t, S, S, 3]``, the encoder's batch."""

    name = "units"

    def run(self, call: Call) -> Arrays:
        inputs, deadline = call.inputs, float(call.inputs["DEADLINE"][0])
        check_deadline(deadline)
        self._check(inputs)
        size_px = self.contract.crop.size_px
        units = cut_units(inputs["FRAMES"], inputs["UNIT_FRAMES"], inputs["CROPS"], size_px=size_px)
        return {"UNITS": units, "UNIT_DEADLINES": np.full((len(units), 1), deadline)}

    def _check(self, inputs: Arrays) -> None:
        """The sample step gives only what fits; this step can be called without it."""
        frames, unit_frames, crops = inputs["FRAMES"], inputs["UNIT_FRAMES"], inputs["CROPS"]
        num_units, max_units = len(unit_frames) * len(crops), self.limits.max_units
        if num_units > max_units:
            raise LimitError("too_many_views", f"{num_units} units are asked for, max_units is {max_units}")
        last_crop = np.array(frames.shape[1:3]) - self.contract.crop.size_px
        if not (num_units and _all_within(unit_frames, len(frames) - 1) and _all_within(crops, last_crop)):
            raise InvalidRequestError("bad_input", "UNIT_FRAMES and CROPS must name units inside FRAMES")


def _all_within(indices: NDArray[np.int32], last: int | NDArray[np.int64]) -> bool:
    return bool((indices >= 0).all() and (indices <= last).all())
