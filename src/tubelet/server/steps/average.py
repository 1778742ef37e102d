"""Last step: the views' logits become one answer, and the report says how it came about."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import numpy as np

from tubelet.server.averaging import average_views
from tubelet.server.steps.base import Arrays, SingleStep, check_deadline, text_tensor

__all__ = ["TritonPythonModel"]

NUM_TOP_LABELS = 5


class TritonPythonModel(SingleStep):
    """VIEW_LOGITS ``[V, C]`` -> LOGITS ``[C]``, PROBABILITIES ``[C]``, VIEW_LOGITS, REPORT."""

    name = "average"
    labels: list[str]

    def open(self) -> None:
        self.labels = (self.folder / "labels.txt").read_text(encoding="utf-8").splitlines()

    def run(self, inputs: Arrays, parameters: Mapping[str, object]) -> Arrays:
        check_deadline(float(inputs["DEADLINE"][0]))
        view_logits = inputs["VIEW_LOGITS"]
        self.check_views(len(view_logits))
        logits, probabilities = average_views(view_logits, self.contract)
        report = json.loads(inputs["SAMPLE_REPORT"][0])
        encoder_started, encoder_ended = inputs["ENCODED_AT"][0]
        started, sampled, ended = report.pop("started"), report.pop("ended"), time.monotonic()
        report["milliseconds"] |= {
            "units": (encoder_started - sampled) * 1000,
            "encoder": (encoder_ended - encoder_started) * 1000,
            "average": (ended - encoder_ended) * 1000,
            "total": (ended - started) * 1000,
        }
        top = np.argsort(-probabilities, kind="stable")[:NUM_TOP_LABELS]
        report["top"] = {self.labels[index]: round(float(probabilities[index]), 6) for index in top}
        text = json.dumps(report, ensure_ascii=False)
        return {
            "LOGITS": logits,
            "PROBABILITIES": probabilities,
            "VIEW_LOGITS": view_logits,
            "REPORT": text_tensor(text),
        }
