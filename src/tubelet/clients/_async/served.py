"""What a server serves: its public models, and the contract and limits of each."""

from __future__ import annotations

from typing import Protocol

from tubelet.clients.calls import Answer, Call, ServedConfig
from tubelet.clients.description import ModelDescription, is_public, public_names, read_description
from tubelet.clients.wire import is_unknown_model
from tubelet.spec.errors import InvalidRequestError, UnavailableError

__all__ = ["AsyncConnection", "describe_model", "model_names", "only_model"]


class AsyncConnection(Protocol):
    """A connection to one server; all its calls raise tubelet's errors."""

    async def infer(self, call: Call) -> Answer:
        """Sends a request and waits for its answer."""

    async def served_names(self, *, timeout_s: float) -> list[str]:
        """Triton's names of all that is ready, inner steps included."""

    async def config(self, model: str, *, timeout_s: float) -> ServedConfig:
        """A model's configuration."""

    async def register_region(self, name: str, size: int) -> None:
        """Lets the server map a region of shared memory of ``size`` bytes."""

    async def unregister_region(self, name: str) -> None:
        """Lets the server give a region back."""

    async def close(self) -> None:
        """Ends the calls that are under way with `UnavailableError`, and the connection."""


async def model_names(connection: AsyncConnection, *, timeout_s: float) -> list[str]:
    """Names of the models that are ready and meant for callers, in alphabetical order.

    Raises:
        UnavailableError: no server answers.
    """
    names = public_names(await connection.served_names(timeout_s=timeout_s))
    return [name for name in names if is_public(await connection.config(name, timeout_s=timeout_s))]


async def only_model(connection: AsyncConnection, *, timeout_s: float) -> str:
    """The name of the one model that is served.

    Raises:
        InvalidRequestError: ``bad_parameter``, there are several, or the server does not say which there are.
        UnavailableError: no server answers, or no model is ready.
    """
    try:
        models = await model_names(connection, timeout_s=timeout_s)
    except InvalidRequestError as exc:
        raise InvalidRequestError(
            exc.code, f"the server does not say which models there are, so name one with model= ({exc.message})"
        ) from exc
    if not models:
        raise UnavailableError("backend_lost", "the server is there, but no model is ready; try again soon")
    if len(models) > 1:
        raise InvalidRequestError("bad_parameter", f"several models are served, name one of {', '.join(models)}")
    return models[0]


async def describe_model(connection: AsyncConnection, model: str, *, timeout_s: float) -> ModelDescription:
    """What a model promises, and what the server accepts for it in one request; ``timeout_s`` is for each question.

    Raises:
        ContractError: one of them cannot be read, or the contract is not the one that its digest names.
        InvalidRequestError: ``bad_parameter``, there is no such model.
        UnavailableError: no server answers, or the model is not ready.
    """
    try:
        config = await connection.config(model, timeout_s=timeout_s)
    except UnavailableError as exc:
        if not is_unknown_model(exc) or not (models := await model_names(connection, timeout_s=timeout_s)):
            raise
        raise InvalidRequestError(
            "bad_parameter", f"there is no model {model!r}; the server has {', '.join(models)}"
        ) from exc
    return read_description(config)
