"""Last step of target ``gpu``: what callers see of the tensors that come from the card, and the report."""

from __future__ import annotations

import json
import time
from typing import Any

from tubelet.server.steps.answers import AnswerStep, features_of_views
from tubelet.server.steps.base import Arrays, Call, check_deadline

__all__ = ["TritonPythonModel"]


class TritonPythonModel(AnswerStep):
    """LOGITS ``[C]``, PROBABILITIES ``[C]``, VIEW_LOGITS ``[V, C]``, PRODUCT where there is one -> the same, REPORT.

    Of a model that gives them also FEATURES ``[U*R, D]`` -> ``[V, n, D]`` for those who ask, and POSITIONS. AFTER is
    the DEADLINE again, for a model that answers after this one.
    """

    name = "report"

    def run(self, call: Call) -> Arrays:
        inputs, ended = call.inputs, time.monotonic()
        check_deadline(float(inputs["DEADLINE"][0]))
        answer = {
            name: inputs[name] for name in ("LOGITS", "PROBABILITIES", "PRODUCT", "VIEW_LOGITS") if name in inputs
        }
        facts = self._facts(inputs, ended)
        if "FEATURES" in inputs:
            self.check_units(inputs["CLIP_UNITS"], num_units=len(inputs["FEATURES"]) // max(1, len(inputs["CROPS"])))
            answer |= features_of_views(call)
        return answer | {"REPORT": self.report(facts, answer), "AFTER": inputs["DEADLINE"]}

    def _facts(self, inputs: Arrays, ended: float) -> dict[str, Any]:
        """What the report says beside labels; ``gpu`` is all from the decoder to here, way and waiting included."""
        report: dict[str, Any] = json.loads(inputs["SAMPLE_REPORT"][0])
        started, sampled, said = report.pop("started"), report.pop("ended"), report["milliseconds"]
        if "gpu" not in said:  # else the first step has counted them as they went to the card
            self.metrics.add("tubelet_units_encoded_total", report["units_encoded"])
        gpu = said.get("gpu", 0.0) + (ended - sampled) * 1000
        return report | {"milliseconds": said | {"gpu": gpu, "total": (ended - started) * 1000}}
