"""How far a load test is: a line on a terminal that is written over, lines now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from tubelet.loadtest.measured import Trial
    from tubelet.loadtest.running import Progress

__all__ = ["LoadProgress"]

_LINE_EVERY_S = 10.0


class LoadProgress:
    """For people. Open it in a ``with``.

    Args:
        file: where to.
    """

    def __init__(self, file: IO[str]) -> None:
        self._console = Console(file=file, markup=False, emoji=False, highlight=False)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._said_s = time.monotonic()

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def tick(self, progress: Progress) -> None:
        """Shows where a measurement stands."""
        text = str(progress)
        if self._status is not None:
            self._status.update(Text(text))
        elif time.monotonic() - self._said_s >= _LINE_EVERY_S:
            self._say(text)

    def trial(self, trial: Trial) -> None:
        """Says what a trial of a search found."""
        broken = "breaks it" if trial.is_on_time else "cannot be believed, since the generator was late"
        verdict = "keeps the promise" if trial.kept else broken
        self._say(
            f"{trial.rate:.1f} a second: p50 {trial.p50_ms:.0f} ms, p99 {trial.p99_ms:.0f} ms, "
            f"errors {trial.error_share:.2%}: {verdict}"
        )

    def _say(self, text: str) -> None:
        self._said_s = time.monotonic()
        self._console.print(Text(text), soft_wrap=True)
