"""KServe's protocol over HTTP: httpx carries it, tritonclient writes and reads the bodies in their binary form."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote
from weakref import WeakSet

import httpx
from httpx import AsyncClient

from tubelet.clients.address import Address
from tubelet.clients.bodies import (
    HEAD_SIZE,
    infer_path,
    read_answer,
    readable_answer,
    refusal,
    request_headers,
    write_request,
)
from tubelet.clients.calls import GRACE_S, Answer, Call, ServedConfig
from tubelet.clients.settings import Headers, Timeouts, Tls, fresh_headers, tls_context
from tubelet.clients.wire import closed_error, late_error, lost_error, translated_errors, unreachable_error
from tubelet.spec.errors import InvalidRequestError

__all__ = ["AsyncHttpConnection"]

_KEPT_CONNECTIONS = 32


class AsyncHttpConnection:
    """Connections to one server, as many as there are calls at a time."""

    def __init__(self, address: Address, *, timeouts: Timeouts, headers: Headers | None, tls: Tls | None) -> None:
        self._timeouts = timeouts
        self._headers = headers
        self._streams: WeakSet[Any] = WeakSet()
        self._is_closed = False
        try:
            self._client = AsyncClient(
                base_url=address.base_url,
                verify=tls_context(tls) if address.tls else False,
                # A video must never travel through a proxy that happens to stand in the environment.
                trust_env=False,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT_CONNECTIONS),
                # Logits do not get smaller by packing, and Triton would take its time for it.
                headers={"accept-encoding": "identity"},
            )
        except httpx.InvalidURL as exc:
            raise _unusable_url(exc) from exc

    async def infer(self, call: Call) -> Answer:
        """Sends a request and waits for its answer.

        Raises:
            TubeletError: as `tubelet.clients.wire.translated_errors`; and `ContractError`, the answer is none of
                Triton's.
        """
        body, head_size = write_request(call)
        path, timeout_s = infer_path(call.model), call.deadline_s + GRACE_S
        response = await self._ask("POST", path, request_headers(head_size), timeout_s=timeout_s, content=body)
        return read_answer(response.content, response.headers.get(HEAD_SIZE))

    async def served_names(self, *, timeout_s: float) -> list[str]:
        """Triton's names of all that is ready, inner steps included.

        Raises:
            TubeletError: as `infer`.
        """
        response = await self._ask("GET", "/v2/models/stats", {}, timeout_s=timeout_s)
        with readable_answer():
            return [str(model["name"]) for model in response.json()["model_stats"]]

    async def config(self, model: str, *, timeout_s: float) -> ServedConfig:
        """A model's configuration.

        Raises:
            TubeletError: as `infer`.
        """
        path = f"/v2/models/{quote(model, safe='')}/config"
        response = await self._ask("GET", path, {}, timeout_s=timeout_s)
        with readable_answer():
            found = response.json()
            parameters = {
                name: str(value.get("string_value", "")) for name, value in found.get("parameters", {}).items()
            }
            return ServedConfig(name=str(found["name"]), platform=str(found.get("platform", "")), parameters=parameters)

    async def register_region(self, name: str, size: int) -> None:
        """Lets the server map a region of shared memory of ``size`` bytes.

        Raises:
            TubeletError: it does not allow that, or sees no such region.
        """
        content = json.dumps({"key": f"/{name}", "offset": 0, "byte_size": size}).encode()
        path = f"/v2/systemsharedmemory/region/{name}/register"
        await self._ask("POST", path, {}, timeout_s=self._timeouts.question_s, content=content)

    async def unregister_region(self, name: str) -> None:
        """Lets the server give a region back.

        Raises:
            TubeletError: as `register_region`.
        """
        path = f"/v2/systemsharedmemory/region/{name}/unregister"
        await self._ask("POST", path, {}, timeout_s=self._timeouts.question_s, content=b"")

    async def close(self) -> None:
        """Ends the calls that are under way with `UnavailableError`, and the connections."""
        self._is_closed = True
        for stream in list(self._streams):
            # Closing alone does not wake up a thread that waits for an answer.
            with suppress(OSError):
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        await self._client.aclose()

    async def _ask(
        self, method: str, path: str, headers: dict[str, str], *, timeout_s: float, content: bytes | None = None
    ) -> httpx.Response:
        with self._translated_errors():
            response = await self._client.request(
                method,
                path,
                headers=fresh_headers(self._headers) | headers,
                content=content,
                timeout=httpx.Timeout(timeout_s, connect=self._timeouts.connect_s),
                extensions={"trace": self._trace},
            )
            if response.status_code != httpx.codes.OK:
                raise refusal(response.content, status=response.status_code, reason=response.reason_phrase)
            return response

    async def _trace(self, event: str, details: dict[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._streams.add(details["return_value"])

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            with translated_errors():
                yield
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as exc:
            if self._is_closed:
                raise closed_error() from exc
            match exc:
                case httpx.ConnectError() | httpx.ConnectTimeout():
                    text = str(exc) or f"no connection within {self._timeouts.connect_s:g} s"
                    raise unreachable_error(text) from exc
                case httpx.TimeoutException():
                    raise late_error() from exc
                case httpx.InvalidURL():
                    raise _unusable_url(exc) from exc
                case httpx.HTTPError():
                    raise lost_error(str(exc)) from exc
            raise


def _unusable_url(reason: httpx.InvalidURL) -> InvalidRequestError:
    return InvalidRequestError("bad_parameter", f"no request can go to this URL, or to a model of this name: {reason}")
