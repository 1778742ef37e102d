"""What all reports have in common: jinja2 set up to escape every name, the page's frame, and how dates are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined

__all__ = ["page_environment", "render"]


def page_environment(package: str, filters: Mapping[str, Callable[..., Any]]) -> Environment:
    """The templates of a package, which may extend ``pages/page.html.j2``.

    Args:
        package: has its templates in a folder ``templates``; they are named ``own/NAME``.
        filters: besides ``date``, ``duration`` and ``number``, which all have.
    """
    environment = Environment(
        loader=PrefixLoader({"pages": PackageLoader("tubelet.pages"), "own": PackageLoader(package)}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"date": _date, "duration": _duration, "number": lambda number: f"{number:,}", **filters}
    return environment


def render(environment: Environment, template: str, **values: object) -> str:
    """The page; names that are no text, such as those of some files, are shown with marks in place of their bytes."""
    page = environment.get_template(template).render(values)
    return page.encode("utf-8", "replace").decode("utf-8")


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _duration(seconds: float) -> str:
    hours, rest = divmod(math.ceil(seconds), 3600)
    minutes, left = divmod(rest, 60)
    parts = [f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (hours + minutes > 0)
    return " ".join([*parts, f"{left} s"]) if hours == 0 else " ".join(parts)
