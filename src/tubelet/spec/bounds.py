"""How large the numbers and how free the names of recipes and manifests may be.

Whoever writes one decides what an export and a server compute; these bounds keep a slip of the hand from asking for
more memory than there is, and names from leaving their folder.
"""

from __future__ import annotations

import re

__all__ = [
    "MOST_CLIP_FRAMES",
    "MOST_FPS",
    "MOST_LARGEST_BATCH",
    "MOST_NUMBERS",
    "MOST_PX",
    "MOST_WINDOW",
    "WAYS_IN",
    "check_head_name",
    "check_model_name",
    "within",
]

MOST_CLIP_FRAMES = 16_384
"""Frames of a clip. VTN takes any number, and was measured with 10,000 (docs/adr/0009-window-attention.md)."""
MOST_FPS = 1000
"""Frames per second to which a video is brought."""
MOST_PX = 8192
"""Side of a resized frame or a crop."""
MOST_LARGEST_BATCH = 1024
"""Units in one run of the encoder."""
MOST_NUMBERS = 2**20
"""Of all that has no bound of its own: classes, widths, strides, seconds."""
MOST_WINDOW = 1024
"""Frames of an attention window: its memory grows with the square of it, whatever a clip holds."""

_MODEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_HEAD_NAME = re.compile(r"\w[\w .+-]{0,63}")

WAYS_IN = ("_frames", "_chunked", "_features")
"""End the public names under which a model takes decoded frames, a video chunk by chunk, or features."""


def within(most: float, **values: float) -> None:
    """Makes sure that numbers are above 0 and not above ``most``.

    Raises:
        ValueError: naming the one that is not.
    """
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
        if value > most:
            raise ValueError(f"{name} must be at most {most}, got {value}")


def check_model_name(name: str) -> None:
    """Makes sure that a model's name can be part of a file's name and of an address, and that callers can reach it.

    Raises:
        ValueError: it cannot.
    """
    if not _MODEL_NAME.fullmatch(name):
        raise ValueError(f"a model's name is letters, digits and '_', 64 at most, got {name[:80]!r}")
    if name.endswith(WAYS_IN):
        raise ValueError(f"a model's name must not end with {', '.join(WAYS_IN)}: such are its other ways in")


def check_head_name(name: str) -> None:
    """Makes sure that a head's name can be part of the name of its file of labels.

    Raises:
        ValueError: it cannot.
    """
    if not _HEAD_NAME.fullmatch(name):
        raise ValueError(f"a head's name is letters, digits, spaces and '_.+-', 64 at most, got {name[:80]!r}")
