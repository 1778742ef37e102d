"""What a server says about a model: its contract and limits, read from Triton's configuration of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from tubelet.clients.calls import ServedConfig
from tubelet.spec.bounds import WAYS_IN
from tubelet.spec.ensemble import EnsembleContract, decode_contract
from tubelet.spec.errors import ContractError, InvalidRequestError, RecipeError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.strict import decode
from tubelet.spec.tensors import WayIn, answer_names, ways_in

__all__ = ["ModelDescription", "choose_way", "is_public", "public_names", "read_description"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDescription:
    """What can be known of a model before anything is sent."""

    name: str
    """Its public name."""
    contract: Contract | EnsembleContract
    """What can be observed of it: classes, protocols, shapes."""
    limits: Limits
    """What the server accepts in one request."""


def public_names(served: list[str]) -> list[str]:
    """Of the names of all that is ready, those that may be public, in alphabetical order."""
    return sorted({name for name in served if not name.endswith(WAYS_IN)})


def is_public(config: ServedConfig) -> bool:
    """Whether this is a model for callers, and no step of one."""
    return config.platform == "ensemble" and not config.name.endswith(WAYS_IN) and "contract" in config.parameters


def read_description(config: ServedConfig) -> ModelDescription:
    """What a model promises, and what the server accepts for it in one request.

    Raises:
        ContractError: one of them cannot be read, or the contract is not the one that its digest names.
        InvalidRequestError: ``bad_parameter``, this is no model for callers.
    """
    model, parameters = config.name, config.parameters
    if not is_public(config):
        raise InvalidRequestError("bad_parameter", f"{model!r} is no model of tubelet, or an inner step of one")
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
    return ModelDescription(name=model, contract=contract, limits=limits)


@lru_cache(maxsize=64)
def choose_way(
    contract: Contract | EnsembleContract, way: WayIn, *, with_features: bool = False, with_views: bool = True
) -> tuple[str, tuple[str, ...]]:
    """The public name of a way into the model, and what is asked for there.

    Raises:
        InvalidRequestError: ``bad_input``, the model has no such way in.
    """
    if isinstance(contract, EnsembleContract):
        if way != "video" or with_features:
            raise InvalidRequestError("bad_input", f"{contract.name} takes encoded videos only")
        return contract.name, answer_names(contract, with_views=with_views)
    ways = ways_in(contract)
    if "features" not in ways and (way not in ways or with_features):
        raise InvalidRequestError("bad_input", f"{contract.name} takes whole clips only: no chunks, no features")
    name, _ = ways[way]
    return name, answer_names(contract, way, with_features=with_features, with_views=with_views)
