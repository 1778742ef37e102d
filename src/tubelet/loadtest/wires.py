"""How requests of a load test travel: as little work for each as its protocol allows, and the clients' errors."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import grpc  # type: ignore[import-untyped]
import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from tubelet.clients.address import Address
from tubelet.clients.calls import GRACE_S, Answer, Call
from tubelet.clients.channels import channel_options, credentials
from tubelet.clients.settings import Headers, Timeouts, Tls, fresh_headers
from tubelet.clients.wire import translated_errors
from tubelet.spec.errors import ContractError, ScenarioError

__all__ = ["Arrival", "Ask", "Wire", "open_wire", "video_tensor"]


class Arrival(NamedTuple):
    """An answer, and when it came."""

    answer: Answer
    at_s: float
    """By the event loop's clock; what this process has done since is not in it."""


Ask = Callable[[int], Awaitable[Arrival]]
"""Sends the request with the video of that number, and waits for its answer."""

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_OTHER_FILES = 128
"""Open at the same time, besides connections."""


class Wire(Protocol):
    """A way to the server; what it sends raises tubelet's errors."""

    def prepare(self, call: Call, videos: str) -> Ask:
        """Makes all that is the same each time: ``call``, without tensors, with the videos of that name."""

    async def close(self) -> None:
        """Ends it."""


def open_wire(
    address: Address,
    videos: Mapping[str, Sequence[bytes]],
    *,
    most_in_flight: int,
    headers: Headers | None,
    tls: Tls | None,
) -> Wire:
    """A wire by the address's protocol, which needs a running event loop; nothing is sent yet.

    Raises:
        ScenarioError: ``bad_scenario``, this process may not have so many connections.
        InvalidRequestError: ``bad_parameter``, certificates or headers cannot be used.
    """
    if address.protocol == "grpc":
        return _GrpcWire(address, videos, headers=headers, tls=tls)
    # Its packages are loaded only where they are needed.
    from tubelet.loadtest.http_wire import HttpWire

    _allow_connections(most_in_flight)
    return HttpWire(address, videos, headers=headers, tls=tls)


class _GrpcWire:
    """The client's calls without its work: a request is the bytes of its head and of its video, one after the other.

    That is a whole message, since those of protobuf may be joined in their binary form.
    """

    def __init__(
        self, address: Address, videos: Mapping[str, Sequence[bytes]], *, headers: Headers | None, tls: Tls | None
    ) -> None:
        options = channel_options(Timeouts())
        if address.tls:
            self._channel = grpc.aio.secure_channel(address.authority, credentials(tls), options=options)
        else:
            self._channel = grpc.aio.insecure_channel(address.authority, options=options)
        self._infer = self._channel.unary_unary(_INFER)
        self._headers = headers
        self._metadata = grpc.aio.Metadata(*fresh_headers(None if callable(headers) else headers).items())
        self._tails = {name: [_tail(video) for video in some] for name, some in videos.items()}

    def prepare(self, call: Call, videos: str) -> Ask:
        head, tails, timeout_s = _head(call), self._tails[videos], call.deadline_s + GRACE_S

        clock = asyncio.get_running_loop().time

        async def ask(number: int) -> Arrival:
            call = self._infer(head + tails[number % len(tails)], timeout=timeout_s, metadata=self._call_metadata())
            at_s = 0.0

            def note(_: object) -> None:
                nonlocal at_s
                at_s = clock()

            # It ends before this task has its turn again.
            call.add_done_callback(note)
            try:
                raw = await call
            except grpc.aio.AioRpcError as exc:
                with translated_errors():
                    raise InferenceServerException(exc.details(), status=str(exc.code())) from exc
            return Arrival(_read(raw), at_s)

        return ask

    async def close(self) -> None:
        await self._channel.close()

    def _call_metadata(self) -> grpc.aio.Metadata:
        if callable(self._headers):
            return grpc.aio.Metadata(*fresh_headers(self._headers).items())
        return self._metadata


def video_tensor(video: bytes) -> bytes:
    """The tensor VIDEO as it travels."""
    tensor: bytes = serialize_byte_tensor(np.array([video], dtype=np.object_)).item()
    return tensor


def _head(call: Call) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=call.model)
    request.inputs.add(name="VIDEO", datatype="BYTES", shape=[1])
    for name, count in call.outputs.items():
        output = request.outputs.add(name=name)
        if count:
            output.parameters["classification"].int64_param = count
    for name, text in call.parameters.items():
        request.parameters[name].string_param = text
    request.parameters["timeout"].int64_param = call.timeout_us
    if call.priority:
        request.parameters["priority"].uint64_param = call.priority
    head: bytes = request.SerializeToString()
    return head


def _tail(video: bytes) -> bytes:
    content = video_tensor(video)
    tail: bytes = service_pb2.ModelInferRequest(raw_input_contents=[content]).SerializeToString()
    return tail


def _read(raw: bytes) -> Answer:
    try:
        answer: Answer = InferResult(service_pb2.ModelInferResponse.FromString(raw))
    except DecodeError as exc:
        raise ContractError(
            "contract_mismatch", f"the server's answer is none of Triton's ({exc!r}); look at the URL"
        ) from exc
    return answer


def _allow_connections(most: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = most + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise ScenarioError(
            "bad_scenario",
            f"over HTTP each request in flight has a connection, and this process may have {hard} open files; "
            f"expected most_in_flight and closed callers of {hard - _OTHER_FILES} at most together, got {most}",
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
