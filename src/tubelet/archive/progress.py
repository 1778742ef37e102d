"""How far a run is: a bar on a terminal, a line every half minute elsewhere, or JSON; and a closing summary."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import IO, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from tubelet.archive.events import Answered, Away, Back, Event, Flow, SetAside, Stalled
from tubelet.archive.ledger import Counts
from tubelet.archive.state import State
from tubelet.archive.summary import Summary
from tubelet.clients.display import printable
from tubelet.spec.errors import MachineError

__all__ = ["JsonProgress", "LineProgress", "describe_state", "show_summary"]

_LINE_EVERY_S = 30.0


class LineProgress(State):
    """For people: a bar on a terminal, plain lines elsewhere. Open it in a ``with``.

    Args:
        file: where to.
        clock: seconds, on any clock that does not go back.
    """

    def __init__(self, file: IO[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        # Addresses and messages are data: rich must not read markup, emoji or colours into them.
        self._console = Console(file=file, markup=False, emoji=False, highlight=False)
        self._said_s = clock()
        columns = (TextColumn("{task.description}", markup=False), BarColumn())
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def began(self, before: Counts) -> None:
        """Says what was done before."""
        super().began(before)
        if before.done:
            self._say(f"{before.done} items were done before; going on")

    def event(self, event: Event) -> None:
        """Says what happens to servers."""
        super().event(event)
        match event:
            case Away(server, reason):
                self._say(f"{server} is away, looking for it: {reason}")
            case Back(server):
                self._say(f"{server} answers")
            case Stalled(reason):
                self._say(f"waiting for the storage: {reason}")
            case SetAside(uri, reason):
                self._say(f"set aside, to be asked alone: {uri}: {reason}")

    def tick(self) -> None:
        """Shows where the run stands."""
        super().tick()
        if not self._bar.disable:
            done = self.before + self.tally.done
            self._bar.update(self._task, description=describe_state(self), completed=done, total=self.total)
        elif self._clock() - self._said_s >= _LINE_EVERY_S:
            self._say(describe_state(self))

    def _say(self, text: str) -> None:
        self._said_s = self._clock()
        with _heard(self._console.file):
            self._console.print(Text(printable(text)), soft_wrap=True)


class JsonProgress(State):
    """For programs: an object on a line of its own for everything that happens, but for single rows.

    Args:
        file: where to.
        clock: seconds, on any clock that does not go back.
        every_s: seconds between two objects with the event ``progress``.
    """

    def __init__(
        self, file: IO[str], *, clock: Callable[[], float] = time.monotonic, every_s: float = _LINE_EVERY_S
    ) -> None:
        super().__init__(clock)
        self._file = file
        self._every_s = every_s
        self._said_s = clock()

    def event(self, event: Event) -> None:
        """Prints what happens to servers."""
        super().event(event)
        if not isinstance(event, Flow | Answered):
            name = {Away: "away", Back: "back", SetAside: "set_aside", Stalled: "stalled"}[type(event)]
            _print_json(self._file, name, asdict(event))

    def tick(self) -> None:
        """Prints where the run stands, now and then."""
        super().tick()
        if self._clock() - self._said_s >= self._every_s:
            self._said_s = self._clock()
            _print_json(self._file, "progress", self.to_json())


def describe_state(state: State) -> str:
    """One line, such as ``1200 of 5000 · 41.2 per s · 494 views per s · 8 in flight · 3 failed · 1:32 left``."""
    rate, views_rate = state.rates
    done = state.before + state.tally.done
    parts = [f"{done} of {state.total}" if state.total is not None else f"{done} done"]
    parts += [f"{rate:.1f} per s", f"{views_rate:.0f} views per s", f"{state.in_flight} in flight"]
    if failed := state.tally.failed.total():
        parts.append(f"{failed} failed")
    if (left := state.seconds_left) is not None:
        parts.append(f"{_as_time(left)} left")
    return " · ".join(parts)


def show_summary(summary: Summary, *, file: IO[str], as_json: bool) -> None:
    """Prints what came of a run; errors by code in a table."""
    if as_json:
        _print_json(file, "summary", summary.to_json())
        return
    with _heard(file):
        _show_lines(summary, Console(file=file, markup=False, emoji=False, highlight=False))


def _show_lines(summary: Summary, console: Console) -> None:
    tally = summary.tally
    state = "done" if summary.is_complete else "stopped"
    for line in (
        f"{state}: {tally.done} items now, {summary.before} before",
        f"{summary.done} in all, {summary.failed} of them with an error",
        f"{tally.copied} copied now from items of the same content, {tally.views} views",
        f"{_as_time(summary.seconds)}, {summary.rate:.1f} items and {summary.mib_rate:.1f} MiB per s",
        f"{summary.parts} parts in {printable(str(summary.folder))}",
    ):
        console.print(Text(line), soft_wrap=True)
    if tally.failed:
        table = Table("errors now", "items", box=None, pad_edge=False)
        for code, count in tally.failed.most_common():
            table.add_row(code, str(count))
        console.print(table)


def _as_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _print_json(file: IO[str], event: str, data: dict[str, object]) -> None:
    with _heard(file):
        print(json.dumps({"event": event, **data}, allow_nan=False), file=file, flush=True)


@contextmanager
def _heard(file: IO[str]) -> Iterator[None]:
    """Makes it our error when nobody takes what is printed."""
    try:
        yield
    except OSError as exc:
        # What is left in the buffer would fail once more when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        raise MachineError("missing", f"nobody takes the output ({exc.strerror}); send it somewhere else") from exc
