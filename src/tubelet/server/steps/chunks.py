"""First step of long videos and of those whose features are there: brings features without keeping frames."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import cv2
import numpy as np
import triton_python_backend_utils as triton
from numpy.typing import NDArray

from tubelet.preprocess.decoders import PYAV, FrameDecoder, open_decoder
from tubelet.preprocess.streaming import encode_video
from tubelet.server.steps.base import Arrays, Call, SingleStep, check_caller, check_deadline
from tubelet.server.steps.videos import count_video, features_report_tensor, report_tensor, view_tensors
from tubelet.spec.errors import InvalidRequestError, LimitError, TubeletError, UnavailableError, error_from_text
from tubelet.spec.plan import Profile
from tubelet.spec.request import Request, read_deadline_s
from tubelet.spec.strict import decode
from tubelet.spec.tensors import step_tensors

__all__ = ["TritonPythonModel"]


class TritonPythonModel(SingleStep):
    """VIDEO, or FEATURES ``[V, n, D]`` and POSITIONS ``[V, n]`` -> FEATURES ``[U*R, D]`` and what `temporal` needs.

    A video's units go to the encoder's step as they come, ``largest_batch`` of them at a time, where they share batches
    with other requests; only their features are kept. Features that come are V clips of one crop.
    """

    name = "chunks"
    decoder: FrameDecoder = PYAV
    largest_batch: int
    temporal_profiles: tuple[Profile, ...] = ()
    """Shapes that the step `temporal` takes; none: any."""

    def open(self) -> None:
        cv2.setNumThreads(1)  # as in the step `sample`
        self.decoder = open_decoder(self.parameters.get("decoder", "pyav"))
        self.largest_batch = int(self.parameters["largest_batch"])
        profiles = json.loads(self.parameters.get("temporal_profiles", "[]"))
        self.temporal_profiles = tuple(decode(Profile, data, where="temporal_profiles") for data in profiles)

    def run(self, call: Call) -> Arrays:
        started = time.monotonic()
        if "VIDEO" in call.inputs and "FEATURES" not in call.inputs:
            tensors = self._encode(call, started)
        elif "FEATURES" in call.inputs and "VIDEO" not in call.inputs:
            tensors = self._take(call, started)
        else:
            raise InvalidRequestError("bad_input", "expected the input VIDEO, or FEATURES that were computed before")
        _, outputs = step_tensors(self.contract, self.target)["chunks"]
        return {spec.name: tensors[spec.name] for spec in outputs if spec.name in tensors}

    def _encode(self, call: Call, started: float) -> Arrays:
        request = Request.from_parameters(call.parameters, self.contract, self.limits)
        deadline = started + request.deadline_s
        encoder = _Encoder(f"{self.contract.name}_encoder", call, deadline, is_timed=self.target == "cpu")
        found = encode_video(
            call.inputs["VIDEO"][0],
            request,
            self.contract,
            self.limits,
            largest_batch=self.largest_batch,
            encode=encoder,
            deadline=deadline,
            decoder=self.decoder,
        )
        count_video(self.metrics, found.prepared)
        if self.target == "gpu":
            milliseconds = {"gpu": found.encode_s * 1000}
            self.metrics.add("tubelet_units_encoded_total", found.num_encoded)
        else:
            milliseconds = {"units": (found.encode_s - encoder.busy_s) * 1000, "encoder": encoder.busy_s * 1000}
        report = report_tensor(
            found.prepared, request, started=started, num_encoded=found.num_encoded, milliseconds=milliseconds
        )
        return {
            "FEATURES": found.features,
            **view_tensors(found.prepared, deadline=deadline),
            "SAMPLE_REPORT": report,
            "ENCODED_AT": _just_encoded(),
        }

    def _take(self, call: Call, started: float) -> Arrays:
        if unfit := sorted(set(call.parameters) - {"deadline_ms"}):
            raise InvalidRequestError(
                "bad_parameter",
                f"features were sampled already, so {', '.join(unfit)} cannot be heeded; there is deadline_ms",
            )
        deadline = started + read_deadline_s(call.parameters, self.limits)
        features = call.inputs["FEATURES"]
        self._check(features, call.inputs.get("POSITIONS"))
        num_views, n, width = features.shape
        self.metrics.add("tubelet_units_wanted_total", num_views * n)
        self.metrics.add("tubelet_features_reused_total", num_views * n)
        clips = np.arange(num_views * n, dtype=np.int32).reshape(num_views, n)
        return {
            "FEATURES": features.reshape(-1, width),
            "CLIP_UNITS": clips,
            "CLIP_POSITIONS": call.inputs.get("POSITIONS", clips),
            "CROPS": np.zeros((1, 2), np.int32),
            "DEADLINE": np.array([deadline]),
            "SAMPLE_REPORT": features_report_tensor(
                num_views=num_views,
                clip_units=n,
                started=started,
                milliseconds={"units": 0.0, "encoder": 0.0} if self.target == "cpu" else {},
            ),
            "ENCODED_AT": _just_encoded(),
        }

    def _check(self, features: NDArray[np.float32], positions: NDArray[np.int32] | None) -> None:
        num_views, n, _ = features.shape
        self.check_views(num_views)
        # No request for a video gives longer clips, or more of them.
        most_units = max(self.limits.max_units, self.limits.max_views * self.contract.units_per_clip)
        if n > self.most_units_per_clip or num_views * n > most_units:
            raise LimitError(
                "too_many_views",
                f"FEATURES of {num_views} views of {n} units came; a view has at most {self.most_units_per_clip}, "
                f"all views together at most {most_units}",
            )
        self._check_fit(num_views, n)
        if not n or not np.isfinite(features).all():
            raise InvalidRequestError("bad_input", "FEATURES must be finite, with one unit or more in each view")
        if not self.contract.geometry.positions:
            return
        if positions is None or positions.shape != features.shape[:2] or positions.min() < 0:
            raise InvalidRequestError(
                "bad_input", f"POSITIONS must give a number from 0 for each of [{num_views}, {n}] features"
            )

    def _check_fit(self, num_views: int, n: int) -> None:
        """The plan of the next step refuses shapes that it was not built for, in words that help no caller."""
        shapes = {
            "FEATURES": (num_views * n, self.contract.geometry.feature_dim or 0),
            "CLIP_UNITS": (num_views, n),
            "CLIP_POSITIONS": (num_views, n),
            "CROPS": (1, 2),
        }
        fits = [profile.holds({name: shapes[name] for name in profile.inputs}) for profile in self.temporal_profiles]
        if fits and not any(fits):
            most = ", ".join("x".join(map(str, p.inputs["CLIP_UNITS"].most)) for p in self.temporal_profiles)
            raise LimitError(
                "too_many_views",
                f"FEATURES of {num_views} views of {n} units came; the model was built for views x units up to {most}",
            )


@dataclass(slots=True)
class _Encoder:
    """Calls the encoder's step: units uint8 ``[u, 1, S, S, 3]`` -> features float32 ``[u, D]``."""

    model: str
    call: Call
    deadline: float
    is_timed: bool
    """Whether the encoder is a step of ours, which takes deadlines and says when it worked."""
    busy_s: float = 0.0
    """Time in which the encoder worked on these units, as it says; the rest of the calls is way and waiting."""

    def __call__(self, units: NDArray[np.uint8]) -> NDArray[np.float32]:
        # A step of ours looks at the deadline too; of this caller it knows nothing.
        check_caller(self.call.is_cancelled)
        check_deadline(self.deadline)
        given = {"UNITS": units}
        if self.is_timed:
            given["UNIT_DEADLINES"] = np.full((len(units), 1), self.deadline)
        response = triton.InferenceRequest(
            model_name=self.model,
            requested_output_names=["FEATURES", "ENCODED_AT"] if self.is_timed else ["FEATURES"],
            inputs=[triton.Tensor(name, array) for name, array in given.items()],
            # An encoder on the card would leave its features there, and NumPy cannot look at them.
            preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU),
        ).exec()
        if response.has_error():
            raise self._error(response.error().message())
        found = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        if self.is_timed:
            began, ended = found["ENCODED_AT"][0]
            self.busy_s += float(ended - began)
        return np.array(found["FEATURES"])  # the tensor's own memory is lent

    def _error(self, text: str) -> TubeletError:
        if (ours := error_from_text(text)) is not None:
            return ours
        triton.Logger.log_error(f"{self.model}: {text}")
        return UnavailableError("backend_lost", "the encoder did not answer; try again in some seconds")


def _just_encoded() -> NDArray[np.float64]:
    """ENCODED_AT: all features are there by now."""
    return np.full((1, 2), time.monotonic())
