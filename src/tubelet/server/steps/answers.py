"""What the last steps have in common: labels for those who read the report alone, and what a view was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tubelet.averaging import view_rows
from tubelet.server.steps.base import Arrays, Call, SingleStep, best_labels, text_tensor

__all__ = ["AnswerStep", "features_of_views"]


class AnswerStep(SingleStep):
    """A step that ends a chain: its version's folder holds the labels."""

    labels: list[str]
    product_labels: list[str]

    def open(self) -> None:
        self.labels = self._read_labels("labels.txt")
        if self.contract.product is not None:
            self.product_labels = self._read_labels("labels.product.txt")

    def _read_labels(self, name: str) -> list[str]:
        return (self.folder / name).read_text(encoding="utf-8").splitlines()

    def report(self, facts: Mapping[str, Any], answer: Arrays) -> NDArray[np.object_]:
        """REPORT: the ``facts``, by which contract they are, and the most probable labels."""
        top = best_labels(answer["PROBABILITIES"], self.labels)
        report = dict(facts) | {"contract_digest": self.contract_digest, "top": top}
        if "PRODUCT" in answer:
            report[f"top_{self.contract.product}"] = best_labels(answer["PRODUCT"], self.product_labels)
        return text_tensor(json.dumps(report, ensure_ascii=False))


def features_of_views(call: Call) -> dict[str, NDArray[Any]]:
    """FEATURES ``[V, n, D]`` and POSITIONS ``[V, n]``: what the temporal stage sees of each view.

    Copies of the features, for ways in that offer them: Triton asks a step for all that its ensemble maps, whatever the
    caller asked for.
    """
    clip_units, num_crops = call.inputs["CLIP_UNITS"], len(call.inputs["CROPS"])
    seen = {}
    if "FEATURES" in call.wanted:
        seen["FEATURES"] = call.inputs["FEATURES"][view_rows(clip_units, num_crops)]
    if "POSITIONS" in call.wanted:
        seen["POSITIONS"] = np.repeat(call.inputs["CLIP_POSITIONS"], num_crops, axis=0)
    return seen
