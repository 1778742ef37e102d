"""What commands have in common: kinds of arguments, options of servers, how JSON is printed and a page is saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from tubelet.spec.engine import Arithmetic, Precision, check_arithmetic

__all__ = [
    "PRECISION",
    "File",
    "Folder",
    "check_usage",
    "concurrency_option",
    "json_option",
    "print_json",
    "save_page",
    "server_options",
    "storage_option",
    "trust_options",
]

_C = TypeVar("_C", bound=Callable[..., Any])

Folder = partial(click.Path, file_okay=False, path_type=Path)
File = partial(click.Path, dir_okay=False, path_type=Path)
PRECISION = click.Choice(get_args(Precision))

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line on stdout.")


class _Line(click.types.StringParamType):
    """Text; several in an environment variable stand on lines of their own, since they may hold spaces."""

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return [line.strip() for line in rv.splitlines() if line.strip()]


def _read_assignments(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            # What was given is not repeated: it may be a secret.
            raise click.BadParameter("NAME=VALUE is expected", context, option)
        found[name] = value
    return found


_assignments = partial(click.option, metavar="NAME=VALUE", type=_Line(), multiple=True, callback=_read_assignments)

storage_option = _assignments(
    "--storage-option",
    "storage_options",
    help="For the storage that the videos are in, as fsspec names it; may be given often.",
)

_HEADER = _assignments(
    "--header",
    "headers",
    envvar="TUBELET_HEADERS",
    show_envvar=True,
    help="Send a header with every request, such as authorization='Bearer TOKEN'; may be given often. Secrets are "
    "better kept in the environment, where others do not see them; there, one on each line.",
)
_CA_FILE = click.option(
    "--ca-file", type=File(exists=True), help="Whom to trust with TLS, as PEM. [default: whom the system trusts]"
)


def server_options(*, several: bool = False) -> Callable[[_C], _C]:
    """Adds the options that say where the server is and what it is shown: ``url``, ``headers``, ``ca_file``.

    Args:
        several: whether more than one server may take part; the first option then is ``urls``.
    """
    more = " Give it once for each server that takes part." if several else ""
    url = click.option(
        "--url",
        "urls" if several else "url",
        envvar="TUBELET_URL",
        default=("127.0.0.1:8001",) if several else "127.0.0.1:8001",
        show_default=True,
        show_envvar=True,
        multiple=several,
        metavar="URL",
        help=f"The server: HOST:PORT or grpc://, grpcs:// for its gRPC, http://, https:// for its HTTP.{more}",
    )

    def add(command: _C) -> _C:
        return url(trust_options(command))

    return add


def trust_options(command: _C) -> _C:
    """Adds the options that say what a server is shown, and whom to trust: ``headers``, ``ca_file``."""
    return _HEADER(_CA_FILE(command))


def _concurrency(context: click.Context, option: click.Parameter, text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or not int(text):
        raise click.BadParameter(f"a number of requests or 'auto' is expected, got {text!r}", context, option)
    return int(text)


concurrency_option = click.option(
    "--concurrency",
    callback=_concurrency,
    default="auto",
    show_default=True,
    metavar="N|auto",
    help="Requests in flight at each server; auto: as many as keep it full.",
)


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


def save_page(page: str, path: Path) -> None:
    """Writes a report, makes its folder where there is none, and says where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    click.echo(f"report: {path}", err=True)
