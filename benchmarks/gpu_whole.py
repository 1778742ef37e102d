"""One step of a served model in the place of three, units, encoder and temporal: frames go to the card, logits come.

Between steps in Python, Triton copies tensors through shared memory; this way 40 MB of frames take it once, and not
144 MB of units twice. It is what the target ``gpu`` does without Python, see `gpu_encoder` for why it is done here.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from gpu_encoder import CardNetwork

__all__ = ["triton_model"]


def triton_model() -> type[Any]:
    """The class that Triton makes the step of; importing its base takes a Triton around it."""
    from tubelet.server.steps.base import Arrays, Call, SingleStep, check_deadline

    class WholeModel(SingleStep):
        """FRAMES, UNIT_FRAMES, CLIP_UNITS, CROPS -> VIEW_LOGITS, ENCODED_AT."""

        name = "whole"

        def open(self) -> None:
            self.network = CardNetwork.beside(self.folder)

        def run(self, call: Call) -> Arrays:
            check_deadline(float(call.inputs["DEADLINE"][0]))
            started = time.monotonic()
            view_logits = self.network.see(call.inputs)
            return {"VIEW_LOGITS": view_logits, "ENCODED_AT": np.array([[started, time.monotonic()]])}

    return WholeModel
