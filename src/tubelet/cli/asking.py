"""Commands that talk to a server."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tubelet.cli.shared import File, json_option, print_json
from tubelet.spec.errors import TubeletError

if TYPE_CHECKING:
    from tubelet.clients import Classification, VideoClassifier
    from tubelet.clients.evaluate import RowResult

__all__ = ["classify", "evaluate"]

_CLASSIFY_CONCURRENCY = 4


def _server_options(command: Any) -> Any:
    """Options of the commands that talk to a server."""
    options = (
        click.option(
            "--url",
            envvar="TUBELET_URL",
            default="127.0.0.1:8001",
            show_default=True,
            show_envvar=True,
            metavar="HOST:PORT",
            help="The server's gRPC address.",
        ),
        click.option("--model", help="Public name of the model. [default: the only one that is served]"),
        click.option(
            "--protocol",
            help="How the video becomes views: clips x crops such as 4x3 (any number of clips, 1 or 3 crops), tsn, "
            "full, or full64 for 64 frames of the whole video; a model may have fewer. [default: the model's]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("videos", metavar="VIDEO...", type=click.Path(path_type=Path), nargs=-1, required=True)
@_server_options
@click.option("--start-s", type=float, help="Start of the part that counts, in seconds. [default: the start]")
@click.option("--end-s", type=float, help="End of that part, in seconds. [default: the end]")
@click.option("--deadline-s", type=float, help="Give up on a video after this many seconds.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many labels.")
@click.option("--chunked", is_flag=True, help="For long videos in many frames: keep but a batch of them in memory.")
@json_option
def classify(videos: tuple[Path, ...], url: str, model: str | None, as_json: bool, **wishes: Any) -> None:
    """Classify video files through a running server.

    A file that fails is reported, the others are classified all the same, and the exit code is 1.
    """
    from tubelet.clients import VideoClassifier
    from tubelet.clients.display import show_classification
    from tubelet.clients.ordered import map_ordered

    failed = 0
    with VideoClassifier(url, model=model) as classifier:
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


@click.command()
@click.argument("csv", type=File(exists=True))
@_server_options
@click.option("--concurrency", type=click.IntRange(1, 64), default=4, show_default=True, help="Requests in flight.")
@json_option
def evaluate(csv: Path, url: str, model: str | None, protocol: str | None, concurrency: int, as_json: bool) -> None:
    """Score a model on CSV, through the server: top-1 and top-5.

    CSV has the header video,label; paths are relative to it, a label is a class's name or index. Rows that fail are
    listed, count as wrong, and make the exit code 1.
    """
    from tubelet.clients import VideoClassifier
    from tubelet.clients import evaluate as scoring
    from tubelet.clients.display import progress_over, show_evaluation, show_failed_row

    with VideoClassifier(url, model=model) as classifier:
        num_rows = len(scoring.read_rows(csv))
        with progress_over("classified", num_rows) as advance:

            def on_result(result: RowResult) -> None:
                advance()
                if as_json:
                    print_json(result.to_json())
                if result.error is not None:
                    show_failed_row(result, file=sys.stderr)

            found = scoring.evaluate(classifier, csv, protocol=protocol, concurrency=concurrency, on_result=on_result)
    if as_json:
        print_json(found.to_json())
    else:
        show_evaluation(found)
    sys.exit(1 if found.failures else 0)


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
