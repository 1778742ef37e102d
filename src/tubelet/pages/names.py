"""Names of other people's making, where there is little room for them."""

from __future__ import annotations

__all__ = ["shortened"]


def shortened(name: str, most: int = 22) -> str:
    """A name that fits beside an axis or into a column, on one line and of letters only."""
    clean = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return clean if len(clean) <= most else clean[: most - 1] + "…"
