"""Requests over HTTP/1.1 with as little work for each as can be: made once, written to a socket, read by httptools."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import httptools
import numpy as np

from tubelet.clients.address import Address
from tubelet.clients.bodies import HEAD_SIZE, infer_path, read_answer, refusal, request_headers, write_request
from tubelet.clients.calls import GRACE_S, Call, Tensor
from tubelet.clients.settings import Headers, Timeouts, Tls, fresh_headers, tls_context
from tubelet.clients.wire import late_error, lost_error, translated_errors, unreachable_error
from tubelet.loadtest.wires import Arrival, Ask, video_tensor
from tubelet.spec.errors import UnavailableError

__all__ = ["HttpWire"]

_HEAD_SIZE = HEAD_SIZE.encode()


class HttpWire:
    """Connections to one server, as many as there are requests at a time; each is kept for the next.

    A library of clients takes longer for a request than many a model, and on the cores that the server wants. See
    `tubelet.loadtest.wires.open_wire`.
    """

    def __init__(
        self, address: Address, videos: Mapping[str, Sequence[bytes]], *, headers: Headers | None, tls: Tls | None
    ) -> None:
        self._address = address
        self._tls = tls_context(tls) if address.tls else None
        self._headers = headers
        self._fixed = b"" if callable(headers) else _lines(fresh_headers(headers))
        self._videos = videos
        self._tensors = {name: [video_tensor(video) for video in some] for name, some in videos.items()}
        self._idle: list[_Connection] = []

    def prepare(self, call: Call, videos: str) -> Ask:
        """See `tubelet.loadtest.wires.Wire`."""
        tails, timeout_s = self._tensors[videos], call.deadline_s + GRACE_S
        heads = [self._head(call, video) for video in self._videos[videos]]

        async def ask(number: int) -> Arrival:
            start, rest = heads[number % len(heads)]
            request = b"".join((start, self._own_lines(), rest, tails[number % len(tails)]))
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._ask(request)
            except TimeoutError as exc:
                raise late_error() from exc

        return ask

    async def close(self) -> None:
        """Ends the connections that nobody uses; the others end with their requests."""
        for connection in self._idle:
            connection.transport.close()
        self._idle.clear()

    def _head(self, call: Call, video: bytes) -> tuple[bytes, bytes]:
        """What comes before the headers of the caller, and what comes between them and the tensor."""
        tensor = Tensor("VIDEO", "BYTES", np.array([video], dtype=np.object_))
        body, head_size = write_request(replace(call, tensors=(tensor,)))
        path = self._address.path + infer_path(call.model)
        headers = request_headers(head_size) | {"content-length": str(len(body))}
        start = f"POST {path} HTTP/1.1\r\nhost: {self._address.authority}\r\n".encode()
        return start, _lines(headers) + b"\r\n" + body[:head_size]

    def _own_lines(self) -> bytes:
        return _lines(fresh_headers(self._headers)) if callable(self._headers) else self._fixed

    async def _ask(self, request: bytes) -> Arrival:
        connection = await self._connection()
        try:
            at_s = await connection.ask(request)
        except BaseException:
            # Whatever comes on it would be taken for the answer to the next request.
            connection.transport.abort()
            raise
        if connection.is_open:
            self._idle.append(connection)
        if connection.status != 200:
            with translated_errors():
                raise refusal(connection.content, status=connection.status, reason=connection.reason)
        return Arrival(read_answer(connection.content, connection.head_size), at_s)

    async def _connection(self) -> _Connection:
        while self._idle:
            # The one that was used last: it is the least likely to be closed by the server just now.
            if (connection := self._idle.pop()).is_open:
                return connection
        loop, address, connect_s = asyncio.get_running_loop(), self._address, Timeouts().connect_s
        try:
            async with asyncio.timeout(connect_s):
                _, connection = await loop.create_connection(
                    _Connection, address.host.strip("[]"), address.port, ssl=self._tls
                )
        except TimeoutError as exc:
            raise unreachable_error(f"no connection within {connect_s:g} s") from exc
        except OSError as exc:
            raise unreachable_error(str(exc)) from exc
        return connection


class _Connection(asyncio.Protocol):
    """One connection, which has one request at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.is_open = True
        self.content = b""
        """Of the newest answer, here and below."""
        self.head_size: str | None = None
        self.status = 0
        self.reason = ""
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._arrival: asyncio.Future[float] | None = None

    async def ask(self, request: bytes) -> float:
        """Sends a request and waits for its answer; returns when it came, by the event loop's clock.

        Raises:
            UnavailableError: the connection is lost.
        """
        self.head_size = None
        self._arrival = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._arrival

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(lost_error("the server closed it" if exc is None else str(exc)))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self.transport.abort()
            self._end(lost_error(f"what came is no HTTP: {exc}"))

    def on_status(self, status: bytes) -> None:
        """httptools: the reason, which may come in pieces; here and below."""
        self.reason += status.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == _HEAD_SIZE:
            self.head_size = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_begin(self) -> None:
        self._parts.clear()
        self.reason = ""

    def on_message_complete(self) -> None:
        at_s = asyncio.get_running_loop().time()
        self.content, self.status = b"".join(self._parts), self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.is_open = False
            self.transport.close()
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(at_s)

    def _end(self, error: UnavailableError) -> None:
        self.is_open = False
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_exception(error)


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
