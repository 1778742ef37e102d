"""Pictures for a web page: drawn by matplotlib without a display, coloured by the page, the same bytes every time."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

__all__ = ["ACCENT", "INK", "OTHER", "PAPER", "QUIET", "canvas", "to_svg"]

ACCENT, OTHER, INK, QUIET, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
"""Stand-ins for the page's colours: matplotlib draws with these, and `to_svg` writes the page's variables instead, so
that one picture is readable on light and on dark."""

_WIDTH = 4.4
"""Inches. Narrow enough that letters can be read where a telephone makes the picture smaller."""

_VARIABLES = {ACCENT: "accent", OTHER: "other", INK: "ink", QUIET: "quiet", PAPER: "paper"}

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

_SETTINGS: dict[Any, Any] = {
    **matplotlib.rcParamsDefault,
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud, and has glyphs that our font lacks
    "text.parse_math": False,  # names of classes are data, and may hold dollars
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), QUIET),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), "none"),
}


@contextmanager
def canvas(height: float) -> Iterator[Figure]:
    """An empty figure of so many inches in height, in the page's manner; to be drawn upon and written inside."""
    with matplotlib.rc_context(_SETTINGS):
        yield Figure(figsize=(_WIDTH, height), layout="constrained")


def to_svg(figure: Figure, *, name: str, description: str) -> Markup:
    """The picture as an element for an HTML page.

    Args:
        figure: drawn in a `canvas`, which is still open.
        name: tells pictures of a page apart; letters and hyphens.
        description: what is to be seen, in words, for those who cannot see it.

    Returns:
        An ``svg`` element without fixed size or colours. Equal drawings give equal bytes.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # Letters that matplotlib's font lacks are drawn by the browser; only their width is guessed.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(buffer.getvalue())
    _adapt(root)
    del root.attrib["width"], root.attrib["height"]
    root.set("role", "img")
    root.set("aria-label", description)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _adapt(root: ElementTree.Element) -> None:
    """Takes away sheets of style, which would reach the whole page, and ids that would clash; colours by variables."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        if element.tag == f"{{{_SVG}}}g":
            element.attrib.pop("id", None)
        if style := element.get("style"):
            for colour, variable in _VARIABLES.items():
                style = style.replace(colour, f"var(--{variable})")
            element.set("style", style.replace("font-family: 'DejaVu Sans'; ", ""))
