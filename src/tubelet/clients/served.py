"""What a server serves: its public models, and the contract and limits of each."""

from __future__ import annotations

import json
from typing import Any

from tritonclient.grpc import InferenceServerClient

from tubelet.clients.wire import is_unknown_model, translated_errors
from tubelet.spec.bounds import WAYS_IN
from tubelet.spec.ensemble import EnsembleContract, decode_contract
from tubelet.spec.errors import ContractError, InvalidRequestError, RecipeError, UnavailableError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.strict import decode

__all__ = ["only_model", "read_model"]

_QUESTION_TIMEOUT_S = 10.0
"""For questions about models, which need no computing."""


def only_model(triton: InferenceServerClient) -> str:
    """The name of the one model that is served.

    Raises:
        InvalidRequestError: ``bad_parameter``, there are several.
        UnavailableError: no server answers, or no model is ready.
    """
    models = _public_models(triton)
    if not models:
        raise UnavailableError("backend_lost", "the server is there, but no model is ready; try again soon")
    if len(models) > 1:
        raise InvalidRequestError("bad_parameter", f"several models are served, name one of {', '.join(models)}")
    return models[0]


def read_model(triton: InferenceServerClient, model: str) -> tuple[Contract | EnsembleContract, Limits]:
    """What a model promises, and what the server accepts for it in one request.

    Raises:
        ContractError: one of them cannot be read, or the contract is not the one that its digest names.
        InvalidRequestError: ``bad_parameter``, there is no such model.
        UnavailableError: no server answers, or the model is not ready.
    """
    try:
        config = _config(triton, model)
    except UnavailableError as exc:
        if not is_unknown_model(exc) or not (models := _public_models(triton)):
            raise
        raise InvalidRequestError(
            "bad_parameter", f"there is no model {model!r}; the server has {', '.join(models)}"
        ) from exc
    if not _is_public(config):
        raise InvalidRequestError("bad_parameter", f"{model!r} is no model of tubelet, or an inner step of one")
    return _read_parameters(model, {name: value.string_value for name, value in config.parameters.items()})


def _public_models(triton: InferenceServerClient) -> list[str]:
    """Names of the models that are ready and meant for callers, in alphabetical order."""
    with translated_errors():
        statistics = triton.get_inference_statistics(client_timeout=_QUESTION_TIMEOUT_S)
    names = sorted({model.name for model in statistics.model_stats if not model.name.endswith(WAYS_IN)})
    return [name for name in names if _is_public(_config(triton, name))]


def _config(triton: InferenceServerClient, model: str) -> Any:
    with translated_errors():
        return triton.get_model_config(model, client_timeout=_QUESTION_TIMEOUT_S).config


def _is_public(config: Any) -> bool:
    return config.platform == "ensemble" and not config.name.endswith(WAYS_IN) and "contract" in config.parameters


def _read_parameters(model: str, parameters: dict[str, str]) -> tuple[Contract | EnsembleContract, Limits]:
    try:
        contract = decode_contract(json.loads(parameters["contract"]), where="contract")
        limits = decode(Limits, json.loads(parameters["limits"]), where="limits")
    except (KeyError, ValueError, RecipeError) as exc:
        raise ContractError(
            "contract_mismatch",
            f"the contract or the limits of model {model} cannot be read ({exc}); "
            "use the client of the server's version",
        ) from exc
    if (said := parameters.get("contract_digest")) != contract.digest:
        raise ContractError(
            "contract_mismatch",
            f"model {model} says its contract is {said}, but it gives {contract.digest}; write the repository again",
        )
    return contract, limits
