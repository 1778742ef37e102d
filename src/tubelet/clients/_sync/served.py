# Made of _async/served.py by docs/make_sync.py: change that file, and make this one again.
"""What a server serves: its public models, and the contract and limits of each."""

from __future__ import annotations

from typing import Protocol

from tubelet.clients.calls import Answer, Call, ServedConfig
from tubelet.clients.description import ModelDescription, is_public, public_names, read_description
from tubelet.clients.wire import is_unknown_model
from tubelet.spec.errors import InvalidRequestError, UnavailableError

__all__ = ["SyncConnection", "describe_model", "model_names", "only_model"]


class SyncConnection(Protocol):
    """A connection to one server; all its calls raise tubelet's errors."""

    def infer(self, call: Call) -> Answer:
        """Sends a request and waits for its answer."""

    def served_names(self, *, timeout_s: float) -> list[str]:
        """Triton's names of all that is ready, inner steps included."""

    def config(self, model: str, *, timeout_s: float) -> ServedConfig:
        """A model's configuration."""

    def register_region(self, name: str, size: int) -> None:
        """Lets the server map a region of shared memory of ``size`` bytes."""

    def unregister_region(self, name: str) -> None:
        """Lets the server give a region back."""

    def close(self) -> None:
        """Ends the calls that are under way with `UnavailableError`, and the connection."""


def model_names(connection: SyncConnection, *, timeout_s: float) -> list[str]:
    """Names of the models that are ready and meant for callers, in alphabetical order.

    Raises:
        UnavailableError: no server answers.
    """
    names = public_names(connection.served_names(timeout_s=timeout_s))
    return [name for name in names if is_public(connection.config(name, timeout_s=timeout_s))]


def only_model(connection: SyncConnection, *, timeout_s: float) -> str:
    """The name of the one model that is served.

    Raises:
        InvalidRequestError: ``bad_parameter``, there are several, or the server does not say which there are.
        UnavailableError: no server answers, or no model is ready.
    """
    try:
        models = model_names(connection, timeout_s=timeout_s)
    except InvalidRequestError as exc:
        raise InvalidRequestError(
            exc.code, f"the server does not say which models there are, so name one with model= ({exc.message})"
        ) from exc
    if not models:
        raise UnavailableError("backend_lost", "the server is there, but no model is ready; try again soon")
    if len(models) > 1:
        raise InvalidRequestError("bad_parameter", f"several models are served, name one of {', '.join(models)}")
    return models[0]


def describe_model(connection: SyncConnection, model: str, *, timeout_s: float) -> ModelDescription:
    """What a model promises, and what the server accepts for it in one request; ``timeout_s`` is for each question.

    Raises:
        ContractError: one of them cannot be read, or the contract is not the one that its digest names.
        InvalidRequestError: ``bad_parameter``, there is no such model.
        UnavailableError: no server answers, or the model is not ready.
    """
    try:
        config = connection.config(model, timeout_s=timeout_s)
    except UnavailableError as exc:
        if not is_unknown_model(exc) or not (models := model_names(connection, timeout_s=timeout_s)):
            raise
        raise InvalidRequestError(
            "bad_parameter", f"there is no model {model!r}; the server has {', '.join(models)}"
        ) from exc
    return read_description(config)
