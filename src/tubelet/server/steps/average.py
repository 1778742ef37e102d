"""Last step: the views' logits become one answer, and the report says how it came about."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tubelet.averaging import average_views, probabilities, product, view_rows
from tubelet.server.steps.answers import AnswerStep
from tubelet.server.steps.base import Arrays, Call, check_deadline

__all__ = ["TritonPythonModel"]


class TritonPythonModel(AnswerStep):
    """VIEW_LOGITS ``[V, C]`` -> LOGITS ``[C]``, PROBABILITIES ``[C]``, VIEW_LOGITS, REPORT.

    Of a joint model UNIT_LOGITS ``[U * R, C]``, CLIP_UNITS and CROPS come instead. Where heads have a product, so has
    the answer: PRODUCT. AFTER is the DEADLINE again, for a model that answers after this one.
    """

    name = "average"

    def run(self, call: Call) -> Arrays:
        inputs = call.inputs
        check_deadline(float(inputs["DEADLINE"][0]))
        view_logits = self._view_logits(inputs)
        heads = self.contract.heads
        logits = average_views(view_logits, self.contract.aggregation, heads)
        answer = {"LOGITS": logits, "PROBABILITIES": probabilities(logits, heads), "VIEW_LOGITS": view_logits}
        if self.contract.product is not None:
            answer["PRODUCT"] = product(answer["PROBABILITIES"], heads)
        return answer | {"REPORT": self.report(_facts(inputs), answer), "AFTER": inputs["DEADLINE"]}

    def _view_logits(self, inputs: Arrays) -> NDArray[np.float32]:
        """``[V, C]``: as they come, or put together from the distinct units of a joint model."""
        if "VIEW_LOGITS" in inputs:
            self.check_views(len(inputs["VIEW_LOGITS"]))
            return inputs["VIEW_LOGITS"]
        clip_units, num_crops = inputs["CLIP_UNITS"], len(inputs["CROPS"])
        self.check_views(len(clip_units) * num_crops)
        self.check_units(clip_units, num_units=len(inputs["UNIT_LOGITS"]) // num_crops)
        view_logits: NDArray[np.float32] = inputs["UNIT_LOGITS"][view_rows(clip_units, num_crops)[:, 0]]
        return view_logits


def _facts(inputs: Arrays) -> dict[str, Any]:
    """What the report says beside labels."""
    report: dict[str, Any] = json.loads(inputs["SAMPLE_REPORT"][0])
    encoder_started, encoder_ended = inputs["ENCODED_AT"][0]
    started, sampled, ended = report.pop("started"), report.pop("ended"), time.monotonic()
    in_a_row = {
        "units": (encoder_started - sampled) * 1000,
        "encoder": (encoder_ended - encoder_started) * 1000,
    }
    last = {"average": (ended - encoder_ended) * 1000, "total": (ended - started) * 1000}
    # Where frames are encoded as they come, the first step has said how long the two after it worked.
    said = report["milliseconds"]
    return report | {"milliseconds": said | in_a_row | said | last}
