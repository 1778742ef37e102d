"""The step that several models share when they answer together: their answers become one."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import numpy as np

from tubelet.averaging import average_views, probabilities
from tubelet.server.steps.base import Arrays, Call, SingleStep, best_labels, text_tensor
from tubelet.spec.ensemble import EnsembleContract

__all__ = ["TritonPythonModel"]


class TritonPythonModel(SingleStep):
    """LOGITS_i ``[C]``, VIEW_LOGITS_i ``[V, C]``, REPORT_i of each member i -> the same of all, and PROBABILITIES."""

    name = "combine"
    contract_type = EnsembleContract
    contract: EnsembleContract  # type: ignore[assignment]
    labels: list[str]

    def open(self) -> None:
        self.labels = (self.folder / "labels.txt").read_text(encoding="utf-8").splitlines()

    def run(self, call: Call) -> Arrays:
        members, heads, inputs = range(len(self.contract.members)), self.contract.heads, call.inputs
        answers = np.stack([inputs[f"LOGITS_{i}"] for i in members])
        logits = average_views(answers, self.contract.aggregation, heads)
        shares = probabilities(logits, heads)
        reports = [json.loads(inputs[f"REPORT_{i}"][0]) for i in members]
        top = best_labels(shares, self.labels)
        report = self._report(reports) | {"contract_digest": self.contract_digest, "top": top}
        return {
            "LOGITS": logits,
            "PROBABILITIES": shares,
            "VIEW_LOGITS": np.concatenate([inputs[f"VIEW_LOGITS_{i}"] for i in members]),
            "REPORT": text_tensor(json.dumps(report, ensure_ascii=False)),
        }

    def _report(self, reports: list[dict[str, Any]]) -> dict[str, Any]:
        """One report of all members, and each member's own below its name."""
        names = [member.name for member in self.contract.members]
        counts = ("frames_decoded", "views", "units_wanted", "units_encoded")
        return {
            "protocol": "+".join(dict.fromkeys(str(report["protocol"]) for report in reports)),
            "warnings": [
                f"{name}: {text}" for name, report in zip(names, reports, strict=True) for text in report["warnings"]
            ],
            "duration_s": reports[0]["duration_s"],  # all have seen the same video
            **{count: sum(report[count] for report in reports) for count in counts},
            "milliseconds": self._milliseconds([report["milliseconds"] for report in reports]),
            "members": dict(zip(names, reports, strict=True)),
        }

    @staticmethod
    def _milliseconds(times: list[dict[str, float]]) -> dict[str, float]:
        """One member answers after the other, so the caller waited for the sum."""
        return {step: sum(each.get(step, 0.0) for each in times) for step in dict.fromkeys(chain(*times))}
