"""The command that asks a server about single videos."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tubelet.cli.shared import json_option, print_json, server_options
from tubelet.spec.errors import TubeletError
from tubelet.spec.priorities import DEFAULT_PRIORITY, PRIORITIES

if TYPE_CHECKING:
    from tubelet.clients import Classification, VideoClassifier

__all__ = ["classify"]

_CLASSIFY_CONCURRENCY = 4


@click.command()
@click.argument("videos", metavar="VIDEO...", type=click.Path(path_type=Path), nargs=-1, required=True)
@server_options()
@click.option("--model", help="Public name of the model. [default: the only one that is served]")
@click.option(
    "--protocol",
    help="How the video becomes views: clips x crops such as 4x3 (any number of clips, 1 or 3 crops), tsn, "
    "full, or full64 for 64 frames of the whole video; a model may have fewer. [default: the model's]",
)
@click.option("--start-s", type=float, help="Start of the part that counts, in seconds. [default: the start]")
@click.option("--end-s", type=float, help="End of that part, in seconds. [default: the end]")
@click.option("--deadline-s", type=float, help="Give up on a video after this many seconds.")
@click.option(
    "--priority",
    type=click.Choice(list(PRIORITIES)),
    default=DEFAULT_PRIORITY,
    show_default=True,
    help="Who goes first where requests wait: archive lets those pass for whose answers somebody waits.",
)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many labels.")
@click.option("--chunked", is_flag=True, help="For long videos in many frames: keep but a batch of them in memory.")
@json_option
def classify(
    videos: tuple[Path, ...],
    url: str,
    headers: dict[str, str],
    ca_file: Path | None,
    model: str | None,
    as_json: bool,
    **wishes: Any,
) -> None:
    """Classify video files through a running server.

    A file that fails is reported, the others are classified all the same, and the exit code is 1.
    """
    from tubelet.clients import Tls, VideoClassifier
    from tubelet.clients.display import show_classification
    from tubelet.clients.ordered import map_ordered

    failed = 0
    tls = None if ca_file is None else Tls(ca_file=ca_file)
    with VideoClassifier(url, model=model, headers=headers, tls=tls) as classifier:
        classifier.describe()  # what is wrong with the server is said once, and not of every file
        attempt = partial(_attempt, classifier, wishes)
        for video, found in map_ordered(attempt, videos, concurrency=_CLASSIFY_CONCURRENCY):
            if isinstance(found, TubeletError):
                failed += 1
                _report_error(video, found, as_json=as_json)
            elif as_json:
                print_json({"video": str(video), **found.to_json()})
            else:
                show_classification(str(video), found)
    sys.exit(1 if failed else 0)


def _attempt(
    classifier: VideoClassifier, wishes: dict[str, Any], video: Path
) -> tuple[Path, Classification | TubeletError]:
    try:
        return video, classifier.classify(video, **wishes)
    except TubeletError as exc:
        return video, exc


def _report_error(video: Path, error: TubeletError, *, as_json: bool) -> None:
    from tubelet.clients.display import printable

    click.echo(f"error: {printable(f'{video}: {error}')}", err=True)
    if as_json:
        print_json({"video": str(video), "error": {"code": error.code, "message": error.message}})
