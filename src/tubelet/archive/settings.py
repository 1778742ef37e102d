"""How an archive is scored: which servers, how long they are waited for, what it may cost in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tubelet.archive.rows import Run
from tubelet.spec.errors import InvalidRequestError

__all__ = ["MIB", "Settings"]

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Plain data, so that other machines can be told it."""

    urls: tuple[str, ...]
    """Of the servers, as the clients take them; an item goes to the one with room."""
    run: Run
    """What all rows have in common."""
    deadline_s: float | None = None
    """How long one video may take on the server; None: the server's own ``default_deadline_s``."""
    concurrency: int | None = None
    """Requests in flight at each server; None: as many as keep it full, found out meanwhile."""
    memory_bytes: int = 1024 * MIB
    """Videos in memory, all together; one that is larger is read when it is the only one."""
    patience_s: float = 600.0
    """How long to wait when no server is there, before the run ends."""
    storage_options: Mapping[str, object] = field(default_factory=dict)
    """For fsspec: how to open addresses that are no paths of this machine."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request, for example a token."""
    ca_file: Path | None = None
    """Certificates to trust with TLS; None: the system's."""

    def __post_init__(self) -> None:
        if not self.urls or len(set(self.urls)) != len(self.urls):
            raise InvalidRequestError("bad_parameter", f"servers must be named, each once, got {list(self.urls)}")
        for name in ("deadline_s", "concurrency", "memory_bytes", "patience_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidRequestError("bad_parameter", f"{name} must be positive, got {value!r}")
