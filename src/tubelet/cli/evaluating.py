"""Commands that say how right a model is, and how two runs differ."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tubelet.cli.shared import (
    File,
    Folder,
    concurrency_option,
    json_option,
    print_json,
    save_page,
    server_options,
    storage_option,
)

if TYPE_CHECKING:
    from tubelet.evaluation.result import Evaluation

__all__ = ["compare", "evaluate"]

_REPORT_FILE = "report.html"


@click.command()
@click.argument("path", metavar="LIST", type=File(exists=True))
@click.option(
    "--format",
    type=click.Choice(("auto", "csv", "kinetics", "ssv2", "ek100", "paths")),
    default="auto",
    show_default=True,
    help="What LIST is: video,label with a header, the annotations of a data set, or lines 'path index'; auto: by its "
    "extension and first line.",
)
@click.option("--videos", metavar="DIR|URL", help="Where the videos lie. [default: in LIST's folder]")
@click.option("--labels", type=File(exists=True), help="Names of the classes, one a line, instead of the model's.")
@click.option(
    "--skip-missing", is_flag=True, help="Leave out videos whose files are missing; they count as wrong else."
)
@click.option(
    "--out", type=Folder(), help="For scores, evaluation.json and report.html; the same command goes on there."
)
@server_options(several=True)
@click.option("--model", help="Public name of the model. [default: the only one that is served]")
@click.option("--protocol", help="How the videos become views, as for classify. [default: the model's]")
@concurrency_option
@storage_option
@json_option
def evaluate(
    path: Path,
    *,
    format: str,
    videos: str | None,
    labels: Path | None,
    skip_missing: bool,
    out: Path | None,
    urls: tuple[str, ...],
    headers: dict[str, str],
    ca_file: Path | None,
    model: str | None,
    protocol: str | None,
    concurrency: int | None,
    storage_options: dict[str, str],
    as_json: bool,
) -> None:
    """Score a model on a labelled LIST of videos, through running servers.

    Prints top-1, top-5 and mean class accuracy (of multi-label models mean average precision) with 95 % intervals. A
    label is a class's name or index; '|' is between several. Videos that fail are listed, count as wrong, and make the
    exit code 1.
    """
    from tubelet.archive.progress import LineProgress
    from tubelet.evaluation import run
    from tubelet.evaluation.formats import read_list

    listed = read_list(path, format=format, videos=videos, skip_missing=skip_missing, storage_options=storage_options)
    names = None if labels is None else run.read_names(labels)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tubelet-")))
        with LineProgress(sys.stderr) as progress:
            found = run.evaluate(
                listed,
                folder,
                urls=urls,
                model=model,
                protocol=protocol,
                names=names,
                concurrency=concurrency,
                headers=headers,
                ca_file=ca_file,
                storage_options=storage_options,
                watchers=(progress,),
            )
        _show(found, folder, as_json=as_json)
        if out is not None:
            from tubelet.evaluation.report import render_evaluation

            save_page(render_evaluation(found), out / _REPORT_FILE)
    sys.exit(1 if found.failures else 0)


@click.command()
@click.argument("run_a", type=Folder(exists=True))
@click.argument("run_b", type=Folder(exists=True))
@click.option("--out", type=File(), help="For a report, as HTML.")
@json_option
def compare(run_a: Path, run_b: Path, out: Path | None, as_json: bool) -> None:
    """Compare two runs of evaluate --out on the same list: protocols, precisions or models.

    Says by how much top-1 differs, whether that could be chance (McNemar's exact test, a paired bootstrap), how often
    both give the same answer, how far their logits are apart, and which classes gain and lose. Exit code 0 whatever is
    found, 1 when the runs cannot be compared.
    """
    from tubelet.clients.display import printable
    from tubelet.evaluation.comparison import compare_folders
    from tubelet.evaluation.words import describe_comparison

    found = compare_folders(run_a, run_b)
    if as_json:
        print_json(found.to_json())
    else:
        for line in describe_comparison(found):
            click.echo(printable(line))
    if out is not None:
        from tubelet.evaluation.report import render_comparison

        save_page(render_comparison(found), out)


def _show(found: Evaluation, folder: Path, *, as_json: bool) -> None:
    from tubelet.clients.display import printable
    from tubelet.evaluation.measure import row_answers
    from tubelet.evaluation.outcome import load_outcome
    from tubelet.evaluation.words import describe_evaluation, summarise

    for failure in found.failures:
        text = f"error: line {failure.line}, {failure.video}: {failure.code}: {failure.message}"
        click.echo(printable(text), err=True)
    if as_json:
        for row in row_answers(load_outcome(folder)):
            print_json(row)
        print_json(summarise(found))
    else:
        for line in describe_evaluation(found):
            click.echo(printable(line))
