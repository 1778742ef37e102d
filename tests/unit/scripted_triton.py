"""A real gRPC server that speaks Triton's protocol and answers as a test tells it to: a fault injector.

It has one ensemble with a contract, ``demo``, whose answer depends on the bytes of VIDEO: ``answers`` says how.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from tiny import NETWORK
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from tubelet.preprocess.canary import canary_video
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract, Geometry, Head
from tubelet.spec.pipeline import Crop, Normalisation, Resize, Sampler
from tubelet.spec.strict import canonical_json

NAMES = ("left", "right", "up: the sky", "down")
REPORT: dict[str, Any] = {
    "protocol": "1x1",
    "warnings": [],
    "frames_decoded": 12,
    "views": 1,
    "units_wanted": 4,
    "units_encoded": 3,
    "milliseconds": {"decode": 3.5, "resize": 0.5, "units": 1.0, "encoder": 4.0, "average": 0.25, "total": 9.25},
    "a key of a later version": 1,
}

Handler = Callable[[service_pb2.ModelInferRequest, grpc.ServicerContext], service_pb2.ModelInferResponse]


def contract(name: str = "demo", *, activation: Any = "softmax", any_length: bool = False) -> Contract:
    """A contract of four classes and clips of eight frames; ``any_length``: each a unit, in any number."""
    return Contract(
        schema_version=1,
        name=name,
        network=NETWORK,
        geometry=Geometry(
            unit_frames=1 if any_length else 2,
            feature_dim=16,
            positions=any_length,
            attention=False,
            any_length=any_length,
        ),
        sampler=Sampler(kind="scenic", num_frames=8, stride=1, target_fps=None, short_video="wrap"),
        full_video=None,
        resize=Resize(
            kind="scenic",
            short_side_px=36,
            short_side_three_crops_px=36,
            kernel="bilinear",
            antialias=False,
            on="uint8_truncated",
        ),
        crop=Crop(kind="scenic", size_px=32),
        normalisation=Normalisation(scale=1 / 255, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        protocols=("1x1", "4x3"),
        default_protocol="1x1",
        aggregation="mean_logits",
        heads=(Head(name="motion", num_classes=len(NAMES), activation=activation, labels_sha256="0" * 64),),
        product=None,
    )


def ensemble(
    name: str = "demo",
    *,
    limits: Limits | None = None,
    any_length: bool = False,
    activation: str = "softmax",
    **changes: str,
) -> model_config_pb2.ModelConfig:
    """The configuration of an ensemble with a contract; ``changes`` replace its parameters."""
    config = model_config_pb2.ModelConfig(name=name, platform="ensemble")
    promise = contract(name, any_length=any_length, activation=activation)
    parameters = {
        "contract": canonical_json(promise),
        "contract_digest": promise.digest,
        "limits": canonical_json(limits or Limits()),
    }
    for key, value in (parameters | changes).items():
        config.parameters[key].string_value = value
    return config


def response(
    logits: Sequence[float], *, top: int = 4, report: dict[str, Any] | None = None
) -> service_pb2.ModelInferResponse:
    """Triton's answer for one view with these logits, labels included."""
    row = np.array(logits, dtype=np.float32)
    shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
    order = np.argsort(-shares, kind="stable")[:top]
    labels = [f"{shares[index]:f}:{index}:{NAMES[index]}".encode() for index in order]
    answer = service_pb2.ModelInferResponse(model_name="demo")
    add_tensor(answer, "LOGITS", row)
    add_tensor(answer, "VIEW_LOGITS", row[None])
    add_tensor(answer, "FRAME_TIMES", np.arange(8, dtype=np.float32)[None] / 8)
    add_tensor(answer, "CLIP_SPANS", np.array([[0, 1]], dtype=np.float32))
    add_strings(answer, "REPORT", [json.dumps(REPORT if report is None else report).encode()])
    add_strings(answer, "PROBABILITIES", labels)
    return answer


def add_tensor(answer: service_pb2.ModelInferResponse, name: str, array: NDArray[Any]) -> None:
    datatype = {"f": "FP32", "i": "INT32"}[array.dtype.kind]
    answer.outputs.add(name=name, datatype=datatype, shape=array.shape)
    answer.raw_output_contents.append(array.tobytes())


def add_strings(answer: service_pb2.ModelInferResponse, name: str, strings: Sequence[bytes]) -> None:
    answer.outputs.add(name=name, datatype="BYTES", shape=[len(strings)])
    answer.raw_output_contents.append(b"".join(len(text).to_bytes(4, "little") + text for text in strings))


def video_of(request: service_pb2.ModelInferRequest) -> bytes:
    return bytes(request.raw_input_contents[0][4:])


def logits_from_bytes(
    request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
) -> service_pb2.ModelInferResponse:
    """Takes the video's bytes as JSON: a list of logits, or a text that is the message of an INVALID_ARGUMENT.

    The canary, which is no JSON, has logits, too.
    """
    video = video_of(request)
    said = [0.0] * len(NAMES) if video == canary_video() else json.loads(video)
    if isinstance(said, str):
        fail(context, grpc.StatusCode.INVALID_ARGUMENT, said)
    top = next(o.parameters["classification"].int64_param for o in request.outputs if o.name == "PROBABILITIES")
    return response(said, top=top)


def fail(context: grpc.ServicerContext, code: grpc.StatusCode, text: str) -> NoReturn:
    context.abort(code, text)
    raise AssertionError("abort raises")


@dataclass
class ScriptedTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """What the server holds, and what it was asked."""

    models: list[model_config_pb2.ModelConfig] = field(default_factory=lambda: [ensemble()])
    infer: Handler = logits_from_bytes
    requests: list[service_pb2.ModelInferRequest] = field(default_factory=list)
    url: str = ""

    def ModelConfig(  # noqa: N802
        self, request: service_pb2.ModelConfigRequest, context: grpc.ServicerContext
    ) -> service_pb2.ModelConfigResponse:
        for config in self.models:
            if config.name == request.name:
                return service_pb2.ModelConfigResponse(config=config)
        fail(context, grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")

    def ModelStatistics(  # noqa: N802
        self, request: service_pb2.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> service_pb2.ModelStatisticsResponse:
        statistics = [service_pb2.ModelStatistics(name=config.name, version="1") for config in self.models]
        return service_pb2.ModelStatisticsResponse(model_stats=statistics)

    def ModelInfer(  # noqa: N802
        self, request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        self.requests.append(request)
        return self.infer(request, context)


@contextmanager
def running(triton: ScriptedTriton, *, address: str = "127.0.0.1:0") -> Iterator[ScriptedTriton]:
    """Runs the server, on a free port of this machine unless told otherwise."""
    server = grpc.server(ThreadPoolExecutor(max_workers=8), options=[("grpc.max_receive_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    triton.url = f"127.0.0.1:{server.add_insecure_port(address)}"
    server.start()
    try:
        yield triton
    finally:
        server.stop(grace=None).wait()
