"""Commands on the server's side: what it serves, the server itself, and the machine it is to run on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import click

from tubelet.cli.shared import PRECISION, Folder, check_usage, json_option, print_json
from tubelet.spec.engine import (
    DEFAULT_RUNNING,
    SERVED_BY,
    EngineName,
    Mode,
    Precision,
    Running,
    Target,
    target_of,
)
from tubelet.spec.errors import InvalidRequestError
from tubelet.spec.limits import Limits
from tubelet.spec.repository import Decoder

__all__ = ["doctor", "repository", "serve"]

PORT = click.IntRange(0, 65535)


@click.command()
@click.argument("bundles", metavar="BUNDLE...", type=Folder(exists=True), nargs=-1, required=True)
@click.option("--target", type=click.Choice(get_args(Target)), required=True, help="Where the models will run.")
@click.option("--out", type=Folder(), required=True, help="The repository's folder.")
@click.option(
    "--engine",
    type=click.Choice([engine for engines in SERVED_BY.values() for engine in engines]),
    help="What multiplies: on processors the faster one or the portable one; on GPUs a plan, or ONNX Runtime's "
    "providers. [default: openvino or tensorrt, as the target]",
)
@click.option(
    "--precision",
    type=PRECISION,
    default=DEFAULT_RUNNING.precision,
    show_default=True,
    help="Of the encoder: bf16 where the processor has it, int8 after tubelet quantise; on GPUs after tubelet engine.",
)
@click.option(
    "--mode",
    type=click.Choice(get_args(Mode)),
    default=DEFAULT_RUNNING.mode,
    show_default=True,
    help="All cores on one batch, for a few callers; or a batch on each core, for many.",
)
@click.option(
    "--decoder",
    type=click.Choice(get_args(Decoder)),
    default="pyav",
    show_default=True,
    help="Who decodes videos: the processor, or on GPUs the card's own decoder for what that can.",
)
@click.option("--limit", "limits", metavar="NAME=VALUE", multiple=True, help="Set a limit; may be given often.")
@click.option(
    "--ensemble",
    "ensembles",
    metavar="NAME=MODEL+MODEL",
    multiple=True,
    help="Let models answer together under a name: the mean of their probabilities; may be given often.",
)
def repository(
    *,
    bundles: tuple[Path, ...],
    target: Target,
    out: Path,
    engine: EngineName | None,
    precision: Precision,
    mode: Mode,
    decoder: Decoder,
    limits: tuple[str, ...],
    ensembles: tuple[str, ...],
) -> None:
    """Write the Triton model repository that serves BUNDLE..."""
    from tubelet.export.repository import write_repository

    engine = engine or SERVED_BY[target][0]
    if target_of(engine) != target:
        expected = ", ".join(SERVED_BY[target])
        raise click.BadParameter(f"target {target} is served by {expected}, not {engine}", param_hint="--engine")
    if target == "cpu" and decoder != "pyav":
        raise click.BadParameter(f"on target cpu the processor decodes, by pyav, not {decoder}", param_hint="--decoder")
    check_usage((engine, precision))
    running = Running(engine=engine, precision=precision, mode=mode)

    together = {}
    for text in ensembles:
        name, equals, models = text.partition("=")
        if not (name and equals and models) or name in together:
            raise click.BadParameter(f"NAME=MODEL+MODEL, each NAME once, got {text!r}", param_hint="--ensemble")
        together[name] = models.split("+")

    try:
        chosen = Limits().override(limits)
    except InvalidRequestError as exc:
        raise click.BadParameter(exc.message, param_hint="--limit") from exc
    written = write_repository(
        bundles, target=target, out=out, limits=chosen, running=running, decoder=decoder, ensembles=together
    )
    for model in written.models:
        if not model.verified:
            click.echo(f"{model.name}: {engine} {precision} is not verified; tubelet serve will refuse it", err=True)
    count = len(written.models)
    click.echo(f"{out}: {count} model{'s' * (count != 1)} for target {target}, {engine} {precision}, {mode}")


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--repository", type=Folder(exists=True), default="model_repository", show_default=True, help="What to serve."
)
@click.option("--http-port", type=PORT, default=8000, show_default=True, help="0, here and below: any free port.")
@click.option("--grpc-port", type=PORT, default=8001, show_default=True)
@click.option("--metrics-port", type=PORT, default=8002, show_default=True)
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--expose-unpatched-triton",
    is_flag=True,
    help="Let the wheel's Triton 2.51, which has known holes, listen on an address that others reach.",
)
@click.option(
    "--allow-unverified",
    is_flag=True,
    help="Serve models whose engine and precision did not pass tubelet verify.",
)
@click.option(
    "--allow-shared-memory",
    is_flag=True,
    help="Let callers of this machine pass large inputs through shared memory; on loopback only, and not by itself: "
    "such a caller can name the server's own regions, too.",
)
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def serve(*, as_json: bool, command: tuple[str, ...], **options: Any) -> None:
    """Run Triton until it is told to stop, or while COMMAND runs.

    Waits until every model is ready, prints the addresses, and brings the server back when it is lost. With COMMAND
    (after --), the server's gRPC address is in COMMAND's environment as TUBELET_URL, and its exit code is ours.
    """
    from tubelet.server.options import ServeOptions
    from tubelet.server.supervisor import serve as run

    sys.exit(run(ServeOptions(json_events=as_json, command=command, **options)))


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine can do and what is missing.

    Each missing thing comes with its remedy; the exit code is 1 when this machine cannot serve.
    """
    from tubelet.server.doctor import examine, is_able_to_serve

    findings = examine()
    for finding in findings:
        if as_json:
            print_json(finding.to_json())
            continue
        mark, colour = ("ok", "green") if finding.ok else ("MISSING", "red") if finding.is_needed else ("-", "yellow")
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        click.echo(f"{click.style(f'{mark:8}', fg=colour)}{finding.name:24}{finding.detail}{remedy}")
    sys.exit(0 if is_able_to_serve(findings) else 1)
