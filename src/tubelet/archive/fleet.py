"""All servers of a run: which one has room, and looking for those that are away."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from tubelet.archive.events import Away, Back, Event
from tubelet.archive.server import Server
from tubelet.archive.settings import Settings
from tubelet.spec.errors import ContractError, InvalidRequestError, TubeletError, UnavailableError

__all__ = ["Fleet"]

_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.2, 5.0
"""Between two looks at a server that is away: twice as long each time, give or take a quarter."""


class Fleet:
    """The servers of a run; for the tasks of one event loop.

    Args:
        settings: names the servers, and says how long to wait when none of them is there.
        tell: hears of servers that go away and come back.
        on_room: is called when a server has come back.
    """

    def __init__(self, settings: Settings, tell: Callable[[Event], None], *, on_room: Callable[[], None]) -> None:
        self.servers = tuple(Server(url, settings) for url in settings.urls)
        self.first_up = asyncio.Event()
        """Set once a server has said what it serves."""
        self._patience_s = settings.patience_s
        self._tell = tell
        self._on_room = on_room
        self._last_up_s = time.monotonic()

    @property
    def max_video_bytes(self) -> int:
        """The largest video that all servers take that were seen so far."""
        return min(server.description.limits.max_video_bytes for server in self.servers if server.description)

    def with_room(self) -> Server | None:
        """The server with the most room, if there is one."""
        best = max(self.servers, key=lambda server: server.room)
        return best if best.room else None

    def idle(self) -> Server | None:
        """A server that could be asked, and has nothing in flight."""
        return next((server for server in self.servers if server.room and not server.in_flight), None)

    def lose(self, server: Server, reason: str) -> None:
        """Remembers that a server is not there any more; `find` it then."""
        self._last_up_s = time.monotonic()
        server.lose()
        self._tell(Away(server.url, reason))

    async def find(self, server: Server) -> None:
        """Looks for a server until it is there.

        Raises:
            ContractError: it has another contract than the run.
            InvalidRequestError: it refuses what the run asks of it, at the first look.
            UnavailableError: no server at all was there for ``patience_s``.
        """
        pause_s = _FIRST_PAUSE_S
        while (error := await self._look(server)) is not None:
            if pause_s == _FIRST_PAUSE_S and server.description is None:
                self._tell(Away(server.url, error.message))
            self._check_patience(error)
            await asyncio.sleep(min(pause_s * random.uniform(0.75, 1.25), self._patience_s))
            pause_s = min(2 * pause_s, _MOST_PAUSE_S)
        server.is_up = True
        self.first_up.set()
        self._tell(Back(server.url))
        self._on_room()

    async def close(self) -> None:
        """Closes all connections."""
        for server in self.servers:
            await server.close()

    async def _look(self, server: Server) -> TubeletError | None:
        """Why a server is not there; None: it is."""
        was_there = server.description is not None
        try:
            await server.look()
        except ContractError:
            raise
        except InvalidRequestError as exc:
            if not was_there:
                raise
            return exc  # it was the right one once: it may be on its way
        except TubeletError as exc:
            return exc
        return None

    def _check_patience(self, error: TubeletError) -> None:
        now_s = time.monotonic()
        if any(server.is_up for server in self.servers):
            self._last_up_s = now_s
        elif now_s - self._last_up_s >= self._patience_s:
            raise UnavailableError(
                "backend_lost", f"no server was there for {self._patience_s:g} s; the last one said: {error.message}"
            ) from error
