"""What a load test asks the server about itself, beside its requests: over the same connections, by either protocol.

Answers are Triton's own messages (protobuf), whichever protocol brought them.
"""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import quote

import httpx
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2, service_pb2

from tubelet.clients._async.grpc import AsyncGrpcConnection
from tubelet.clients._async.http import AsyncHttpConnection
from tubelet.clients.address import Address
from tubelet.clients.settings import Headers, Timeouts, Tls, tls_context
from tubelet.spec.errors import ContractError, UnavailableError

__all__ = ["MetricsPage", "Questions", "open_questions"]


class Questions(Protocol):
    """A connection for questions; all but `close` raise tubelet's errors."""

    async def version(self) -> str:
        """Triton's version."""

    async def statistics(self) -> Any:
        """``ModelStatisticsResponse`` of all models."""

    async def model_config(self, model: str) -> Any:
        """``ModelConfig`` of a model."""

    async def close(self) -> None:
        """Ends the connection."""


def open_questions(address: Address, *, timeouts: Timeouts, headers: Headers | None, tls: Tls | None) -> Questions:
    """A connection by the address's protocol; nothing is sent yet."""
    kind = _GrpcQuestions if address.protocol == "grpc" else _HttpQuestions
    return kind(address, timeouts=timeouts, headers=headers, tls=tls)


class _GrpcQuestions(AsyncGrpcConnection):
    async def version(self) -> str:
        with self._translated_errors():
            answer = await self._triton.get_server_metadata(**self._question(self._question_s))
        return str(answer.version)

    async def statistics(self) -> Any:
        with self._translated_errors():
            return await self._triton.get_inference_statistics(**self._question(self._question_s))

    async def model_config(self, model: str) -> Any:
        with self._translated_errors():
            return (await self._triton.get_model_config(model, **self._question(self._question_s))).config


class _HttpQuestions(AsyncHttpConnection):
    async def version(self) -> str:
        return str((await self._read("/v2", service_pb2.ServerMetadataResponse())).version)

    async def statistics(self) -> Any:
        return await self._read("/v2/models/stats", service_pb2.ModelStatisticsResponse())

    async def model_config(self, model: str) -> Any:
        return await self._read(f"/v2/models/{quote(model, safe='')}/config", model_config_pb2.ModelConfig())

    async def _read(self, path: str, message: Any) -> Any:
        response = await self._ask("GET", path, {}, timeout_s=self._timeouts.question_s)
        try:
            return json_format.Parse(response.content, message, ignore_unknown_fields=True)
        except (json_format.ParseError, UnicodeDecodeError) as exc:
            raise ContractError("contract_mismatch", f"{path} of the server is none of Triton's: {exc}") from exc


class MetricsPage:
    """Triton's metrics; no header of the load test's and no redirect takes part, and no proxy.

    Args:
        url: such as ``http://127.0.0.1:8002/metrics``.
        timeout_s: for one reading.
        tls: certificates, for ``https://``.
    """

    def __init__(self, url: str, *, timeout_s: float, tls: Tls | None) -> None:
        self._url = url
        verify = tls_context(tls) if url.startswith("https:") else False
        self._client = httpx.AsyncClient(verify=verify, trust_env=False, timeout=timeout_s)

    async def text(self) -> str:
        """The page.

        Raises:
            UnavailableError: there is none.
        """
        try:
            return (await self._client.get(self._url)).raise_for_status().text
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise UnavailableError("backend_lost", f"no metrics at {self._url}: {exc}") from exc

    async def close(self) -> None:
        """Ends the connection."""
        await self._client.aclose()
