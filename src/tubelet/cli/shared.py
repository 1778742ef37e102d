"""What commands have in common: kinds of arguments, and how JSON is printed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click

from tubelet.spec.engine import Arithmetic, Precision, check_arithmetic

__all__ = ["PRECISION", "File", "Folder", "check_usage", "json_option", "print_json"]

Folder = partial(click.Path, file_okay=False, path_type=Path)
File = partial(click.Path, dir_okay=False, path_type=Path)
PRECISION = click.Choice(get_args(Precision))

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line on stdout.")


def check_usage(chosen: Arithmetic) -> None:
    """Makes sure that an engine has a precision.

    Raises:
        BadParameter: it has not.
    """
    try:
        check_arithmetic(*chosen)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--precision") from exc


def print_json(data: dict[str, Any]) -> None:
    """Prints an object on a line of its own."""
    click.echo(json.dumps(data, allow_nan=False))
