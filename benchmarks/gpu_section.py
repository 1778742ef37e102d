"""What every section of the GPU benchmark has: its device, its time, and a place for what it finds."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

__all__ = ["Section", "SkippedError"]


class SkippedError(Exception):
    """A section cannot run on this machine; the message says why."""


@dataclass
class Section:
    """One section's run, in a process of its own."""

    device: torch.device
    tiny: bool
    seconds: float
    """What it may take."""
    part: Path
    """The file that holds what was found so far, after every step: who is cut off leaves it behind."""
    bundle: Path | None = None
    """A bundle whose graphs are to be measured."""
    found: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def save(self, **found: Any) -> None:
        """Adds to what was found, and writes it."""
        self.found |= found
        partial = self.part.with_suffix(".partial")
        partial.write_text(json.dumps(self.found))
        partial.replace(self.part)

    def say(self, text: str) -> None:
        """Tells where the section is."""
        print(f"    {time.monotonic() - self.began:5.0f} s  {text}", flush=True)  # noqa: T201
