"""What the servers and the caller agree on before anything is scored: the `Run`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tubelet.archive.rows import Run
from tubelet.clients import AsyncVideoClassifier, ModelDescription, Retries, Tls
from tubelet.spec.errors import InvalidRequestError, UnavailableError
from tubelet.spec.protocol import listed

__all__ = ["agree_on_run"]

_PAUSE_S = 1.0


async def agree_on_run(
    urls: Sequence[str],
    *,
    model: str | None,
    protocol: str | None,
    top: int,
    keeps_logits: bool,
    patience_s: float,
    headers: Mapping[str, str] | None = None,
    ca_file: Path | None = None,
    on_wait: Callable[[str], None] = lambda reason: None,
) -> Run:
    """Reads the contract from the first server that answers, and settles what was left to it.

    Args:
        urls: of the servers. That they all have this contract is found out as they are asked.
        model: public name; None: the only one that is served.
        protocol: one that the contract allows; None: its default.
        top: labels in each row; no more than there are classes.
        keeps_logits: whether rows keep the logits.
        patience_s: how long to wait for a server.
        headers: sent with every question.
        ca_file: certificates to trust with TLS.
        on_wait: hears why, when the wait for a server begins.

    Raises:
        InvalidRequestError: ``bad_parameter``: there is no such model or protocol, or the server refuses this caller.
        ContractError: what is served is damaged.
        UnavailableError: no server answered in time.
    """
    tls = None if ca_file is None else Tls(ca_file=ca_file)
    described = await _first_description(
        partial(_describe, model=model, headers=headers, tls=tls), urls, patience_s, on_wait
    )
    contract = described.contract
    protocol = protocol or contract.default_protocol
    if not contract.allows(protocol):
        raise InvalidRequestError(
            "bad_parameter",
            f"protocol of model {described.name} must be one of {listed(contract.protocols)}; got {protocol!r}",
        )
    return Run(
        model=described.name,
        protocol=protocol,
        contract_digest=contract.digest,
        top=min(top, contract.num_classes),
        keeps_logits=keeps_logits,
    )


async def _first_description(
    describe: Callable[[str], Awaitable[ModelDescription]],
    urls: Sequence[str],
    patience_s: float,
    on_wait: Callable[[str], None],
) -> ModelDescription:
    began_s, is_first = time.monotonic(), True
    while True:
        for url in urls:
            try:
                return await describe(url)
            except UnavailableError as exc:
                last = exc
        if time.monotonic() - began_s >= patience_s:
            raise UnavailableError(
                "backend_lost", f"no server was there for {patience_s:g} s; the last one said: {last.message}"
            )
        if is_first:
            on_wait(last.message)
            is_first = False
        await asyncio.sleep(min(_PAUSE_S, patience_s))


async def _describe(
    url: str, *, model: str | None, headers: Mapping[str, str] | None, tls: Tls | None
) -> ModelDescription:
    client = AsyncVideoClassifier(url, model=model, retries=Retries(attempts=1), headers=headers, tls=tls)
    async with client:
        return await client.describe()
