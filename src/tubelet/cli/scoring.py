"""The command that scores whole archives."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click

from tubelet.cli.shared import Folder, concurrency_option, json_option, server_options, storage_option

__all__ = ["score"]


@click.command()
@click.argument("source")
@click.option("--out", type=Folder(), required=True, help="For the rows; the same command goes on there.")
@server_options(several=True)
@click.option("--model", help="Public name of the model. [default: the only one that is served]")
@click.option("--protocol", help="How the videos become views, as for classify. [default: the model's]")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Labels in each row.")
@click.option("--logits", is_flag=True, help="Keep the logits in each row.")
@click.option("--deadline-s", type=click.FloatRange(min=0, min_open=True), help="Give up on a video after that long.")
@concurrency_option
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
@storage_option
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
