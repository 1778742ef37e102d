"""One server, as scoring sees it: a connection, a pace, and whether it is there."""

from __future__ import annotations

import time

from tubelet.archive.items import Item
from tubelet.archive.pace import Pace
from tubelet.archive.settings import Settings
from tubelet.clients import AsyncVideoClassifier, Classification, ModelDescription, Retries, Timeouts, Tls
from tubelet.preprocess.canary import canary_video
from tubelet.spec.ensemble import cheapest_protocol
from tubelet.spec.errors import (
    ContractError,
    DeadlineError,
    InternalError,
    OverloadedError,
    TubeletError,
    UnavailableError,
)

__all__ = ["Server", "open_classifier"]

_FIRST_HOLD_S, _MOST_HOLD_S = 0.1, 5.0
"""Pause after a refusal, twice as long with each one that follows without an answer between them."""
_MOST_COMFORT = 32
"""Requests at a server with a long queue; videos in memory are bounded besides."""
_CANARY_DEADLINE_S = 60.0


def open_classifier(settings: Settings, url: str, *, expect_digest: str | None) -> AsyncVideoClassifier:
    """A client of one server that tries nothing twice: who asks again, and when, is decided here."""
    longest_s = settings.deadline_s or Timeouts().request_s
    return AsyncVideoClassifier(
        url,
        model=settings.run.model,
        expect_digest=expect_digest,
        retries=Retries(attempts=1),
        timeouts=Timeouts(request_s=longest_s, total_s=2 * longest_s),
        headers=settings.headers or None,
        tls=None if settings.ca_file is None else Tls(ca_file=settings.ca_file),
    )


class Server:
    """The state of one server; for the tasks of one event loop.

    Args:
        url: as the clients take it.
        settings: of the run.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url
        self.pace = Pace(fixed=settings.concurrency)
        self.in_flight = 0
        """Requests that it has, counted by those who send them."""
        self.is_up = False
        """It has answered, and was not lost since."""
        self.has_guest = False
        """An item is being asked alone."""
        self.description: ModelDescription | None = None
        """Of the model, once it was there."""
        self._settings = settings
        self._classifier = open_classifier(settings, url, expect_digest=settings.run.contract_digest)
        self._held_until_s = 0.0
        self._hold_s = _FIRST_HOLD_S

    @property
    def room(self) -> int:
        """Requests that it may be sent now."""
        if not self.is_up or self.has_guest or self.held_s > 0:
            return 0
        return max(0, self.pace.limit - self.in_flight)

    @property
    def held_s(self) -> float:
        """Seconds until it is asked again after a refusal."""
        return max(0.0, self._held_until_s - time.monotonic())

    async def ask(self, item: Item, content: bytes) -> Classification:
        """Sends an item's video, and tells the pace how it went.

        Raises:
            TubeletError: as `tubelet.clients.AsyncVideoClassifier.classify`.
        """
        sent_s = time.monotonic()
        try:
            answer = await self._classifier.classify(
                content,
                protocol=self._settings.run.protocol,
                top=self._settings.run.top,
                start_s=item.start_s,
                end_s=item.end_s,
                deadline_s=self._settings.deadline_s,
                with_views=False,
                priority="archive",
            )
        except TubeletError as exc:
            self._hear(exc, sent_s)
            raise
        else:
            self._hear(None, sent_s)
            return answer

    async def look(self) -> None:
        """Makes sure that it is there: it says what it serves, and, after it was lost, classifies a tiny video.

        Triton goes on saying that it is ready when a backend is lost, so only an answer shows that it is back.

        Raises:
            TubeletError: it is not there, or (`ContractError`, `InvalidRequestError`) it is not the right one.
        """
        was_there = self.description is not None
        self.description = await self._classifier.describe()
        self.pace.comfort = min(_MOST_COMFORT, self.description.limits.queue_size // 2)
        if not was_there:
            return
        protocol = cheapest_protocol(self.description.contract)
        deadline_s = min(_CANARY_DEADLINE_S, self.description.limits.default_deadline_s)
        try:
            await self._classifier.classify(canary_video(), protocol=protocol, deadline_s=deadline_s)
        except (UnavailableError, DeadlineError, InternalError, ContractError):
            raise
        except TubeletError:
            return  # it has looked at the video, or has too much to do: it is there

    def lose(self) -> None:
        """Remembers that it is not there any more."""
        self.is_up = False
        self.pace.interrupted(time.monotonic())

    async def close(self) -> None:
        """Closes the connection."""
        await self._classifier.close()

    def _hear(self, error: TubeletError | None, sent_s: float) -> None:
        now_s = time.monotonic()
        if isinstance(error, OverloadedError):
            self.pace.overloaded(now_s, sent_s=sent_s)
            if self.held_s == 0:
                self._held_until_s = now_s + self._hold_s
                self._hold_s = min(2 * self._hold_s, _MOST_HOLD_S)
        elif not isinstance(error, UnavailableError):
            self.pace.answered(now_s, sent_s=sent_s, was_full=self.in_flight >= self.pace.limit)
            self._hold_s = _FIRST_HOLD_S
