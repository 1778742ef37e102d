"""The command line, `tubelet`: reads arguments, calls one function, prints. Heavy imports stand inside the commands."""

from __future__ import annotations

import os
from typing import Any

import click

from tubelet import __version__
from tubelet.cli import asking, bundles, evaluating, loading, models, scoring, serving
from tubelet.spec.errors import TubeletError

__all__ = ["main"]

_EXTRA_OF = {
    "export": "export",
    "verify": "export",
    "quantise": "quantise",
    "engine": "quantise",
    "repository": "clients",
    "serve": "server",
    "score": "archive",
    "evaluate": "evaluate",
    "compare": "evaluate",
    "loadtest": "loadtest",
}
"""What to install where a command lacks a package; all others need ``clients``."""


class _Commands(click.Group):
    """Turns our errors into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TubeletError as exc:
            click.echo(f"error: {exc}", err=True)
        except ModuleNotFoundError as exc:
            package = (exc.name or "tubelet").partition(".")[0]
            if package == "tubelet":
                raise
            extra = _EXTRA_OF.get(ctx.invoked_subcommand or "", "clients")
            click.echo(f"error: missing: no package {package}; pip install 'tubelet[{extra}]'", err=True)
        raise click.exceptions.Exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="tubelet")
def main() -> None:
    """Serves trained video transformers with NVIDIA Triton Inference Server.

    Exit codes: 0 done, 1 the work failed or fell short, 2 wrong usage.
    """
    # Else gRPC says on stderr, a line each, what becomes of its attempts to connect; the error that we print says it.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


for _command in (
    bundles.export,
    bundles.verify,
    bundles.quantise,
    bundles.engine,
    serving.repository,
    serving.serve,
    models.models,
    asking.classify,
    scoring.score,
    evaluating.evaluate,
    evaluating.compare,
    loading.loadtest,
    serving.doctor,
):
    main.add_command(_command)
