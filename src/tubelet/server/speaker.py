"""Tells whoever runs `tubelet serve` what happens to the server, as lines of text or of JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tubelet.server.triton import Ports

__all__ = ["Speaker"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Speaker:
    """Where and how it is told."""

    is_json: bool
    to_stderr: bool
    """Standard output belongs to a command that runs beside the server."""

    def emit(self, event: str, text: str, **facts: Any) -> None:
        """Tells of one event: ``text`` for people, or its name and ``facts`` as JSON."""
        stream = sys.stderr if self.to_stderr else sys.stdout
        line = json.dumps({"event": event, **facts}) if self.is_json else f"tubelet: {text}"
        try:
            print(line, file=stream, flush=True)
        except OSError:  # nobody reads any more; that is no reason to stop serving
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    def ready(self, models: Sequence[str], address: str, ports: Ports, *, seconds: float) -> None:
        """Tells that every model answers, where, and after how many seconds."""
        urls = {
            "http": f"http://{address}:{ports.http}",
            "grpc": f"{address}:{ports.grpc}",
            "metrics": f"http://{address}:{ports.metrics}/metrics",
        }
        text = "  ".join(f"{name} {url}" for name, url in urls.items())
        self.emit(
            "ready",
            f"ready after {seconds:.1f} s: {', '.join(models)}\n  {text}",
            seconds=seconds,
            models=list(models),
            **urls,
        )
