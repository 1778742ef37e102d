"""How results look: a table with bars and colour on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tubelet.clients.results import Classification, Label, Report

__all__ = [
    "bar",
    "describe_time",
    "printable",
    "show_classification",
]

BAR_CELLS = 24
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def printable(text: str) -> str:
    """Replaces what could move a terminal's cursor, or cannot be written: control characters and lone surrogates."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """A horizontal bar of ``share`` (0 to 1) of ``cells`` characters, to an eighth of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()).ljust(cells)


def describe_time(report: Report, *, network_ms: float, round_trip_ms: float) -> str:
    """One line that says where the time of a request went, in milliseconds."""
    steps = {name: value for name, value in report.milliseconds.items() if name != "total"} | {"network": network_ms}
    parts = " · ".join(f"{name} {value:.1f}" for name, value in steps.items())
    return f"{parts} = {round_trip_ms:.1f} ms"


def show_classification(name: str, found: Classification, *, file: IO[str] | None = None) -> None:
    """Prints one video's labels, its warnings, and where the time went.

    Args:
        name: of the video.
        found: its classification.
        file: where to; None: stdout.
    """
    console = _console(file)
    report = found.report
    views, frames = _count(report.views, "view"), _count(report.frames_decoded, "frame")
    heading = f"{found.model} {report.protocol}, {views}, {frames} decoded"
    times = describe_time(report, network_ms=found.network_ms, round_trip_ms=found.round_trip_ms)
    if console.is_terminal:
        console.print(Text.assemble((printable(name), "bold"), ("  " + heading, "dim")), soft_wrap=True)
        console.print(_label_table((*found.product, *found.labels)))
    else:
        _line(console, f"{printable(name)}: {heading}")
        for label in (*found.product, *found.labels):
            _line(console, f"  {label.probability:.4f}  {printable(label.name)}")
    for warning in report.warnings:
        _line(console, f"  warning: {printable(warning)}", style="yellow")
    _line(console, f"  {times}", style="dim")


def _label_table(labels: Sequence[Label]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    table.add_column(overflow="fold")
    for place, label in enumerate(labels):
        style = "green" if place == 0 else "cyan"
        percent = Text(f"{100 * label.probability:.1f} %")
        table.add_row(percent, Text(bar(label.probability), style=style), Text(printable(label.name)))
    return table


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + "s" * (number != 1)


def _console(file: IO[str] | None) -> Console:
    # Names and numbers are data: rich must not read markup, emoji or colours into them.
    return Console(file=file, markup=False, emoji=False, highlight=False)


def _line(console: Console, text: str, *, style: str | None = None) -> None:
    console.print(Text(text), style=style, soft_wrap=True)
