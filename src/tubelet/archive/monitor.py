"""Metrics of a run for Prometheus, on a port of its own."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from tubelet.archive.events import Answered, Away, Back, Event, Flow
from tubelet.archive.ledger import Counts
from tubelet.archive.rows import Row
from tubelet.spec.errors import MachineError

__all__ = ["Monitor"]

_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 300)


class Monitor:
    """Metrics of one run, served while it is open; a `tubelet.archive.watching.Watcher`.

    Args:
        port: to listen on; 0: any free one.
        address: to listen on.

    Raises:
        MachineError: ``port_in_use``.
    """

    def __init__(self, port: int, *, address: str = "127.0.0.1") -> None:
        self._registry = registry = CollectorRegistry()
        self._videos = Counter("tubelet_score_videos", "Items done.", ["outcome"], registry=registry)
        self._bytes = Counter("tubelet_score_bytes", "Bytes of the items done.", registry=registry)
        self._views = Counter("tubelet_score_views", "Views that were classified.", registry=registry)
        self._in_flight = Gauge("tubelet_score_in_flight", "Requests in flight.", ["server"], registry=registry)
        self._pace = Gauge("tubelet_score_pace", "Requests that may be in flight.", ["server"], registry=registry)
        self._up = Gauge("tubelet_score_server_up", "Whether the server answers.", ["server"], registry=registry)
        self._waiting = Gauge(
            "tubelet_score_waiting_bytes", "Bytes of videos that were read and have no answer.", registry=registry
        )
        self._seconds = Histogram(
            "tubelet_score_request_seconds",
            "Time from a request to its answer or error.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._done = 0
        self._items_left: Gauge | None = None
        try:
            self._server, self._thread = start_http_server(port, address, registry)
        except OSError as exc:
            raise MachineError(
                "port_in_use", f"cannot serve metrics on {address}:{port} ({exc.strerror}); choose another port, or 0"
            ) from exc
        self.address = f"http://{address}:{self._server.server_port}/metrics"
        """Where they are."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def began(self, before: Counts) -> None:
        """Remembers what was done before."""
        self._done = before.done

    def counted(self, total: int) -> None:
        """Knows from now on how much is left."""
        self._items_left = Gauge("tubelet_score_items_left", "Items without a row.", registry=self._registry)
        self._items_left.set(max(0, total - self._done))

    def row(self, row: Row) -> None:
        """Counts a row."""
        self._done += 1
        self._videos.labels(row.error_code or ("ok" if row.copied_from is None else "copied")).inc()
        self._bytes.inc(row.size_bytes or 0)
        if row.copied_from is None:
            self._views.inc(row.views or 0)
        if self._items_left is not None:
            self._items_left.dec()

    def event(self, event: Event) -> None:
        """Follows the servers."""
        match event:
            case Flow(server, in_flight, limit, waiting_bytes):
                self._in_flight.labels(server).set(in_flight)
                self._pace.labels(server).set(limit)
                self._waiting.set(waiting_bytes)
            case Answered(_, seconds, _):
                self._seconds.observe(seconds)
            case Away(server):
                self._up.labels(server).set(0)
            case Back(server):
                self._up.labels(server).set(1)

    def tick(self) -> None:
        """Has nothing to do: it is asked."""
