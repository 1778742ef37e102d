"""``tubelet score`` from its options to its exit code: agrees with servers, scores, heeds signals, reports."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from tubelet.archive.addresses import is_url
from tubelet.archive.agreement import agree_on_run
from tubelet.archive.monitor import Monitor
from tubelet.archive.progress import JsonProgress, LineProgress, show_summary
from tubelet.archive.score import Scoring, score_archive
from tubelet.archive.scorer import score_items
from tubelet.archive.settings import MIB, Settings
from tubelet.archive.sources import open_source
from tubelet.archive.summary import Summary
from tubelet.archive.watching import Watcher
from tubelet.spec.errors import MachineError, UnavailableError

__all__ = ["ScoreOptions", "run_command"]

_GO_ON = "what is done is kept; the same command goes on from there"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreOptions:
    """As the command line has them."""

    source: str
    out: Path
    urls: tuple[str, ...]
    model: str | None = None
    protocol: str | None = None
    top: int = 5
    logits: bool = False
    deadline_s: float | None = None
    concurrency: int | None = None
    memory_mib: int = 1024
    patience_s: float = 600.0
    part_rows: int = 10_000
    metrics_port: int | None = None
    storage_options: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None
    as_json: bool = False


def run_command(options: ScoreOptions, *, scoring: Scoring = score_items) -> int:
    """Scores an archive.

    Args:
        options: see there.
        scoring: who asks the servers.

    Returns:
        The exit code: 0 every item has a row, 128 and the signal's number after a signal.

    Raises:
        TubeletError: as `agree_on_run` and `score_archive`; what is done is kept.
    """
    return asyncio.run(_Command(options, scoring).run())


class _Command:
    """One run; see `run_command`."""

    def __init__(self, options: ScoreOptions, scoring: Scoring) -> None:
        self._options = options
        self._scoring = scoring
        self._stopping = asyncio.Event()
        self._signal = 0
        self._agreeing: asyncio.Task[Settings] | None = None

    async def run(self) -> int:
        """The exit code."""
        with _heeding(self._heed):
            self._agreeing = asyncio.create_task(self._agree())
            try:
                settings = await self._agreeing
            except asyncio.CancelledError:
                if not self._signal:
                    raise
                return 128 + self._signal
            self._agreeing = None
            summary = await self._score(settings)
        show_summary(summary, file=sys.stdout, as_json=self._options.as_json)
        if not self._signal:
            return 0
        click.echo(_GO_ON, err=True)
        return 128 + self._signal

    async def _agree(self) -> Settings:
        options = self._options
        run = await agree_on_run(
            options.urls,
            model=options.model,
            protocol=options.protocol,
            top=options.top,
            keeps_logits=options.logits,
            patience_s=options.patience_s,
            headers=options.headers,
            ca_file=options.ca_file,
            on_wait=lambda reason: click.echo(f"waiting for a server: {reason}", err=True),
        )
        return Settings(
            urls=options.urls,
            run=run,
            deadline_s=options.deadline_s,
            concurrency=options.concurrency,
            memory_bytes=options.memory_mib * MIB,
            patience_s=options.patience_s,
            storage_options=options.storage_options,
            headers=options.headers,
            ca_file=options.ca_file,
        )

    async def _score(self, settings: Settings) -> Summary:
        options = self._options
        with ExitStack() as stack:
            watchers: list[Watcher] = []
            if options.as_json:
                watchers.append(JsonProgress(sys.stdout))
            else:
                watchers.append(stack.enter_context(LineProgress(sys.stderr)))
            if options.metrics_port is not None:
                monitor = stack.enter_context(Monitor(options.metrics_port))
                watchers.append(monitor)
                click.echo(f"metrics: {monitor.address}", err=True)
            source = open_source(options.source, options.storage_options)
            try:
                return await score_archive(
                    source,
                    options.out,
                    settings,
                    part_rows=options.part_rows,
                    watchers=watchers,
                    stopping=self._stopping,
                    scoring=self._scoring,
                    # Folders of this machine are quickly read twice; listing a bucket again would take time and money.
                    counts_beside=not is_url(options.source),
                )
            except (UnavailableError, MachineError):
                click.echo(_GO_ON, err=True)
                raise

    def _heed(self, number: int) -> None:
        """The first signal lets requests in flight finish; the second ends at once, and loses nothing that is done."""
        if self._signal:
            os._exit(128 + number)
        self._signal = number
        click.echo("stopping: requests in flight are finished; once more to end at once", err=True)
        self._stopping.set()
        if self._agreeing is not None:
            self._agreeing.cancel()


@contextmanager
def _heeding(heed: Callable[[int], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, heed, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
