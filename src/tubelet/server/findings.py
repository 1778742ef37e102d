"""What the doctor says of one thing that it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tubelet.spec.strict import encode

__all__ = ["Finding", "installed_version"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    is_needed: bool
    """Whether serving on this machine fails without it."""
    detail: str
    remedy: str
    """What to do; empty where nothing is to be done."""

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON can hold."""
        plain: dict[str, Any] = encode(self)
        return plain


def installed_version(package: str) -> str | None:
    """The version of a package, by its metadata; None: it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
