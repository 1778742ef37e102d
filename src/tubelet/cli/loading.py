"""The command that says what a server does at a load."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tubelet.cli.shared import File, Folder, json_option, print_json, save_page, trust_options

if TYPE_CHECKING:
    from tubelet.loadtest.measured import Result
    from tubelet.loadtest.session import Session

__all__ = ["loadtest"]


@click.command()
@click.argument("scenario", metavar="[SCENARIO.toml]", type=File(exists=True), required=False)
@click.option("--search", is_flag=True, help="Look for the highest rate that keeps the scenario's promise.")
@click.option("--out", type=Folder(), help="For NAME.json and NAME.html, after the scenario's name.")
@click.option(
    "--compare",
    nargs=2,
    type=File(exists=True),
    metavar="A.json B.json",
    help="Say what changed from one result to another beyond noise, in place of a test.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="With --compare: by how much B may be worse.",
)
@trust_options
@json_option
def loadtest(
    scenario: Path | None,
    *,
    search: bool,
    out: Path | None,
    compare: tuple[Path, Path] | None,
    threshold: float,
    headers: dict[str, str],
    ca_file: Path | None,
    as_json: bool,
) -> None:
    """Load a running server as SCENARIO.toml says, and say what it did.

    Requests go to the scenario's address and to no other. Ctrl-C ends the test early with what it has. Exit code 1 when
    the scenario's promise is broken; with --compare, when B is worse by more than the threshold.
    """
    if (scenario is None) == (compare is None):
        raise click.UsageError("either a SCENARIO.toml is expected, or --compare with two results")
    if compare is not None:
        sys.exit(_compare(*compare, threshold=threshold, out=out, as_json=as_json))
    assert scenario is not None  # noqa: S101  see above
    sys.exit(_test(scenario, search=search, out=out, headers=headers, ca_file=ca_file, as_json=as_json))


def _test(
    path: Path, *, search: bool, out: Path | None, headers: dict[str, str], ca_file: Path | None, as_json: bool
) -> int:
    from tubelet.clients import Tls
    from tubelet.clients.display import printable
    from tubelet.loadtest.progress import LoadProgress
    from tubelet.loadtest.running import event_loop
    from tubelet.loadtest.scenario import load_scenario
    from tubelet.loadtest.session import Session
    from tubelet.loadtest.words import describe_result, summarise

    scenario = load_scenario(path)
    with LoadProgress(sys.stderr) as progress:
        session = Session(
            scenario=scenario,
            folder=path.parent,
            command=shlex.join(["tubelet", *sys.argv[1:]]),
            with_search=search,
            headers=headers,
            tls=None if ca_file is None else Tls(ca_file=ca_file),
            on_tick=progress.tick,
            on_trial=progress.trial,
        )
        with asyncio.Runner(loop_factory=event_loop) as runner:
            result = runner.run(_run(session))
    if as_json:
        print_json(summarise(result))
    else:
        for line in describe_result(result):
            click.echo(printable(line))
    if out is not None:
        _save(result, out)
    return 0 if result.is_kept else 1


async def _run(session: Session) -> Result:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, session.stop)
    return await session.run()


def _save(result: Result, out: Path) -> None:
    from tubelet.loadtest.report import render_report

    out.mkdir(parents=True, exist_ok=True)
    result.save(out / f"{result.scenario.name}.json")
    save_page(render_report(result), out / f"{result.scenario.name}.html")


def _compare(a: Path, b: Path, *, threshold: float, out: Path | None, as_json: bool) -> int:
    from tubelet.clients.display import printable
    from tubelet.loadtest.comparing import compare_results
    from tubelet.loadtest.measured import Result
    from tubelet.loadtest.report import render_comparison
    from tubelet.loadtest.words import describe_comparison

    found = compare_results(Result.load(a), Result.load(b), threshold=threshold / 100)
    if as_json:
        print_json(found.to_json())
    else:
        for line in describe_comparison(found):
            click.echo(printable(line))
    if out is not None:
        save_page(render_comparison(found), out / "comparison.html")
    return 1 if found.is_regression else 0
