"""The command that lists what a server serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tubelet.cli.shared import json_option, print_json, server_options

if TYPE_CHECKING:
    from tubelet.clients import ModelDescription

__all__ = ["models"]


@click.command()
@click.argument("names", metavar="[MODEL]...", nargs=-1)
@server_options()
@json_option
def models(names: tuple[str, ...], url: str, headers: dict[str, str], ca_file: Path | None, as_json: bool) -> None:
    """List the models of a running server: family, classes, protocols, and the digest of each contract.

    Without a name all of them; over HTTP a proxy in front may keep the list to itself, and then wants names.
    """
    from tubelet.clients import Tls, VideoClassifier

    tls = None if ca_file is None else Tls(ca_file=ca_file)
    with VideoClassifier(url, headers=headers, tls=tls) as classifier:
        for name in names or classifier.models():
            described = _summary(classifier.describe(name))
            if as_json:
                print_json(described)
            else:
                click.echo(_lines(described))


def _summary(described: ModelDescription) -> dict[str, Any]:
    """What is worth knowing of a model, as plain data."""
    from tubelet.spec.ensemble import EnsembleContract
    from tubelet.spec.strict import encode

    contract = described.contract
    members = contract.members if isinstance(contract, EnsembleContract) else (contract,)
    return {
        "model": described.name,
        "contract_digest": contract.digest,
        "members": [
            {"name": member.name, "family": member.network.family, "variant": member.network.variant}
            for member in members
        ],
        "classes": {head.name: head.num_classes for head in contract.heads},
        "protocols": list(contract.protocols),
        "default_protocol": contract.default_protocol,
        "limits": encode(described.limits),
    }


def _lines(summary: dict[str, Any]) -> str:
    """The same for people, without the limits."""
    families = " + ".join(f"{member['family']} {member['variant']}" for member in summary["members"])
    classes = ", ".join(f"{count} of {head}" for head, count in summary["classes"].items())
    protocols = ", ".join(summary["protocols"])
    return (
        f"{summary['model']}  {families}\n"
        f"  classes    {classes}\n"
        f"  protocols  {protocols}; without one {summary['default_protocol']}\n"
        f"  contract   {summary['contract_digest']}"
    )
