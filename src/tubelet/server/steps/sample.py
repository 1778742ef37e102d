"""First step: encoded video (or decoded frames) in, the frames and indices that the views need out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import cv2
import numpy as np

from tubelet.preprocess.prepare import Prepared, prepare_frames, prepare_video
from tubelet.server.steps.base import Arrays, SingleStep, text_tensor
from tubelet.spec.errors import InvalidRequestError
from tubelet.spec.request import Request
from tubelet.spec.tensors import step_tensors

__all__ = ["TritonPythonModel"]


class TritonPythonModel(SingleStep):
    """Decodes and samples: VIDEO, or FRAMES and FPS -> see `tubelet.spec.tensors`."""

    name = "sample"

    def open(self) -> None:
        # Each process of this step reads one video at a time; more threads would only fight with the encoder's.
        cv2.setNumThreads(1)

    def run(self, inputs: Arrays, parameters: Mapping[str, object]) -> Arrays:
        started = time.monotonic()
        request = Request.from_parameters(parameters, self.contract, self.limits)
        deadline = started + request.deadline_s
        prepared = self._prepare(inputs, request, deadline)
        self._count(prepared)
        tensors: Arrays = {
            "FRAMES": prepared.frames,
            "UNIT_FRAMES": prepared.unit_frames,
            "CLIP_UNITS": prepared.clip_units,
            "CLIP_POSITIONS": prepared.clip_positions,
            "CROPS": prepared.crops,
            "FRAME_TIMES": prepared.frame_times,
            "SAMPLE_REPORT": text_tensor(_report(prepared, request, started)),
            "DEADLINE": np.array([deadline]),
        }
        _, outputs = step_tensors(self.contract)["sample"]
        return {spec.name: tensors[spec.name] for spec in outputs}

    def _prepare(self, inputs: Arrays, request: Request, deadline: float) -> Prepared:
        if "VIDEO" in inputs:
            video = inputs["VIDEO"][0]
            return prepare_video(video, request, self.contract, self.limits, deadline=deadline)
        if "FRAMES" in inputs and "FPS" in inputs:
            fps = float(inputs["FPS"][0])
            return prepare_frames(inputs["FRAMES"], fps, request, self.contract, self.limits)
        raise InvalidRequestError("bad_input", "expected the input VIDEO, or the inputs FRAMES and FPS")

    def _count(self, prepared: Prepared) -> None:
        self.metrics.add("tubelet_videos_total", 1)
        self.metrics.add("tubelet_frames_decoded_total", prepared.frames_decoded)
        self.metrics.add("tubelet_decode_seconds_total", prepared.milliseconds["decode"] / 1000)
        self.metrics.add("tubelet_units_wanted_total", prepared.clip_units.size * len(prepared.crops))


def _report(prepared: Prepared, request: Request, started: float) -> str:
    num_crops = len(prepared.crops)
    return json.dumps(
        {
            "protocol": request.protocol.name,
            "warnings": prepared.warnings,
            "frames": prepared.num_frames,
            "frames_decoded": prepared.frames_decoded,
            "views": len(prepared.clip_units) * num_crops,
            "units_wanted": prepared.clip_units.size * num_crops,
            "units_encoded": len(prepared.unit_frames) * num_crops,
            "milliseconds": prepared.milliseconds,
            "started": started,
            "ended": time.monotonic(),
        }
    )
