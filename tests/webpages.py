"""Reads the pages that reports are, as a browser would nest them, and checks what holds of every one of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

__all__ = [
    "Reader",
    "check_colours",
    "check_is_alone",
    "check_reading_aloud",
    "check_references",
    "printed_with_other_settings",
]

_VOID = {"meta", "link"}
_TESTS = Path(__file__).parent


class Reader(HTMLParser):
    """What a page holds: its elements with attributes, and its tables as text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside != "style":
            self.text += data
        if "caption" in self._open:
            self._caption += data
        elif {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def check_is_alone(page: str) -> None:
    """It asks nobody for anything and runs nothing; no name in it was read as HTML."""
    reader = Reader(page)
    for _, attributes in reader.elements:
        for name in ("src", "href", "xlink:href", "data", "poster", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
        assert all(to.startswith("#") for to in re.findall(r"url\((.*?)\)", attributes.get("style", "")))
    assert not {tag for tag, _ in reader.elements} & {"script", "iframe", "object", "embed", "base", "form", "b", "i"}
    assert "<script" not in page
    styles = re.findall("<style.*?</style>", page[: page.index("</head>")], re.DOTALL)
    assert styles
    assert not any("@import" in style or "url(" in style for style in styles)


def check_reading_aloud(page: str) -> None:
    """It has a language, its headings are in order, and tables and pictures have words of their own."""
    reader = Reader(page)
    assert reader.all("html") == [{"lang": "en"}]
    assert len(reader.all("caption")) == len(reader.all("table")) == len(reader.all("thead"))
    assert all(cell.get("scope") in ("col", "row") for cell in reader.all("th"))
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 20 for svg in reader.all("svg"))
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(level <= before + 1 for before, level in pairwise(levels))


def check_references(page: str) -> None:
    """Ids are unique, and all that is referred to is there."""
    reader = Reader(page)
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in reader.elements:
        wanted = [attributes[name] for name in ("href", "xlink:href") if attributes.get(name, "").startswith("#")]
        wanted += re.findall(r"url\((#.*?)\)", " ".join(attributes.values()))
        wanted += [f"#{name}" for name in attributes.get("aria-labelledby", "").split()]
        assert {name[1:] for name in wanted} <= set(ids)


def check_colours(page: str) -> None:
    """Pictures take the page's colours and have none of their own; ids of matplotlib's look alike."""
    pictures = re.findall("<svg.*?</svg>", page, re.DOTALL)
    colours = {colour for svg in pictures for colour in re.findall(r"#\w{6}\b", svg)}
    assert {colour for colour in colours if not colour.startswith("#m")} == set()
    assert "var(--accent)" in page


def printed_with_other_settings(code: str, folder: Path) -> str:
    """What Python code prints, in a process whose matplotlib is told other things by a file in ``folder``."""
    (folder / "matplotlibrc").write_text("font.size: 30\nsvg.fonttype: path\naxes.grid: True\n")
    environment = os.environ | {"MPLCONFIGDIR": str(folder), "PYTHONHASHSEED": "7", "PYTHONPATH": str(_TESTS)}
    made = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=120)
    return made.stdout.decode()
