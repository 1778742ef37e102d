"""The command that scores whole archives."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from tubelet.cli.shared import Folder, json_option

__all__ = ["score"]


def _assignments(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """Reads ``NAME=VALUE``s."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"NAME=VALUE is expected, got {text!r}", context, option)
        found[name] = value
    return found


def _concurrency(context: click.Context, option: click.Parameter, text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or not int(text):
        raise click.BadParameter(f"a number of requests or 'auto' is expected, got {text!r}", context, option)
    return int(text)


@click.command()
@click.argument("source")
@click.option("--out", type=Folder(), required=True, help="For the rows; the same command goes on there.")
@click.option(
    "--url",
    "urls",
    envvar="TUBELET_URL",
    default=("127.0.0.1:8001",),
    show_default=True,
    show_envvar=True,
    multiple=True,
    metavar="URL",
    help="A server's address; give it once for each server that takes part.",
)
@click.option("--model", help="Public name of the model. [default: the only one that is served]")
@click.option("--protocol", help="How the videos become views, as for classify. [default: the model's]")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Labels in each row.")
@click.option("--logits", is_flag=True, help="Keep the logits in each row.")
@click.option("--deadline-s", type=click.FloatRange(min=0, min_open=True), help="Give up on a video after that long.")
@click.option(
    "--concurrency",
    callback=_concurrency,
    default="auto",
    show_default=True,
    metavar="N|auto",
    help="Requests in flight at each server; auto: as many as keep it full.",
)
@click.option(
    "--memory-mib", type=click.IntRange(min=1), default=1024, show_default=True, help="Videos in memory, together."
)
@click.option(
    "--patience-s",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="How long to wait while no server is there.",
)
@click.option("--part-rows", type=click.IntRange(min=1), default=10_000, show_default=True, help="Rows of a file.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Serve Prometheus metrics; 0: any free port.")
@click.option(
    "--storage-option",
    "storage_options",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_assignments,
    help="For the storage that SOURCE is in, as fsspec names it; may be given often.",
)
@click.option(
    "--header",
    "headers",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_assignments,
    help="Send a header with every request, such as a token; may be given often.",
)
@click.option("--ca-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Whom to trust with TLS.")
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Have the machines of a Ray cluster read and ask: auto, HOST:PORT, ray://HOST:PORT, or local for processes of "
    "this machine. --concurrency and --memory-mib then are each task's.",
)
@json_option
def score(source: str, ray: str | None, **options: Any) -> None:
    """Score an archive of videos through running servers, into Parquet files.

    SOURCE is a folder, a pattern, a list (.csv, .jsonl, .parquet), a video, or a URL of one, such as s3://bucket/prefix.
    Every item gets a row, those that cannot be classified one with an error. The same command goes on where it ended,
    however it ended.

    Exit codes: 0 every item has a row, 1 the run could not be finished, 2 wrong usage, 130 and 143 after a signal. The
    first signal lets requests in flight finish, the second ends at once.
    """
    from tubelet.archive.command import ScoreOptions, run_command
    from tubelet.archive.ray import score_on_ray
    from tubelet.archive.scorer import score_items

    scoring = score_items if ray is None else partial(score_on_ray, ray)
    sys.exit(run_command(ScoreOptions(source=source, **options), scoring=scoring))
