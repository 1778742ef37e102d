"""First step: encoded video (or decoded frames) in, the frames and indices that the views need out."""

from __future__ import annotations

import time

import cv2

from tubelet.preprocess.decoders import PYAV, FrameDecoder, open_decoder
from tubelet.preprocess.prepare import Prepared, prepare_frames, prepare_video
from tubelet.server.steps.backlog import Backlog
from tubelet.server.steps.base import Arrays, Call, SingleStep, check_deadline
from tubelet.server.steps.videos import count_video, report_tensor, view_tensors
from tubelet.spec.errors import InvalidRequestError, OverloadedError
from tubelet.spec.priorities import QUEUE_SHARE
from tubelet.spec.request import Request
from tubelet.spec.tensors import step_tensors

__all__ = ["TritonPythonModel"]

_LEARNING = 0.2
"""Share that the newest of the times has in what is expected of the next."""


class TritonPythonModel(SingleStep):
    """Decodes and samples: VIDEO, or FRAMES and FPS -> see `tubelet.spec.tensors`.

    AFTER is the deadline that the model before has handed on, where models answer together.
    """

    name = "sample"
    decoder: FrameDecoder = PYAV
    backlog: Backlog
    decode_s: float = 0.0
    """What a video may take until its units can be encoded, as those before it did."""

    def open(self) -> None:
        self.decoder = open_decoder(self.parameters.get("decoder", "pyav"))
        # Each process of this step reads one video at a time; more threads would only fight with the encoder's.
        cv2.setNumThreads(1)
        self.backlog = Backlog(self.contract.name)

    def run(self, call: Call) -> Arrays:
        started = time.monotonic()
        request = Request.from_parameters(call.parameters, self.contract, self.limits)
        deadline = float(call.inputs["AFTER"][0]) if "AFTER" in call.inputs else started + request.deadline_s
        check_deadline(deadline)
        self._wait(request, deadline, has_waited="AFTER" in call.inputs)
        begun = time.monotonic()
        prepared = self._prepare(call.inputs, request, deadline)
        self.decode_s += _LEARNING * (time.monotonic() - begun - self.decode_s)
        count_video(self.metrics, prepared)
        num_encoded = len(prepared.unit_frames) * len(prepared.crops)
        self.backlog.add(num_encoded)
        tensors: Arrays = {
            "FRAMES": prepared.frames,
            "UNIT_FRAMES": prepared.unit_frames,
            **view_tensors(prepared, deadline=deadline),
            "SAMPLE_REPORT": report_tensor(
                prepared, request, started=started, num_encoded=num_encoded, milliseconds={}
            ),
        }
        _, outputs = step_tensors(self.contract)["sample"]
        return {spec.name: tensors[spec.name] for spec in outputs}

    def _wait(self, request: Request, deadline: float, *, has_waited: bool) -> None:
        """Waits until more may be decoded, and refuses what would not be done in time.

        Nobody says how long a request was in the queue. Triton throws it out after `QUEUE_SHARE` of its time, so that
        the rest is left in any case; of one whose deadline came with it all that is left is known.
        """
        until = deadline if has_waited else deadline - QUEUE_SHARE * request.deadline_s
        units = request.protocol.num_views * self.contract.units_per_clip
        try:
            self.backlog.wait(deadline, units=units, decode_s=self.decode_s, until=until)
        except OverloadedError:
            # Or one video that took long would have all others refused that come after it.
            self.decode_s *= 1 - _LEARNING
            raise

    def _prepare(self, inputs: Arrays, request: Request, deadline: float) -> Prepared:
        if "VIDEO" in inputs:
            video = inputs["VIDEO"][0]
            return prepare_video(video, request, self.contract, self.limits, deadline=deadline, decoder=self.decoder)
        if "FRAMES" in inputs and "FPS" in inputs:
            fps = float(inputs["FPS"][0])
            return prepare_frames(inputs["FRAMES"], fps, request, self.contract, self.limits, deadline=deadline)
        raise InvalidRequestError("bad_input", "expected the input VIDEO, or the inputs FRAMES and FPS")
