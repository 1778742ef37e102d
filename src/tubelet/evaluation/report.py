"""The report of an evaluation or of a comparison: one HTML file without scripts, which asks no network for anything."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment
from markupsafe import Markup

from tubelet.evaluation.compared import Comparison, MultiLabelComparison, SingleLabelComparison
from tubelet.evaluation.figures import Bar, draw_intervals
from tubelet.evaluation.intervals import proportion
from tubelet.evaluation.result import Estimate, Evaluation, MultiLabelResult, SingleLabelResult
from tubelet.evaluation.sections import (
    ChangeSection,
    MultiLabelSection,
    SingleLabelSection,
    change_section,
    multi_label_section,
    single_label_section,
)
from tubelet.pages.page import page_environment, render

__all__ = ["render_comparison", "render_evaluation"]

_MOST_FAILURES = 200
"""Failed videos that are listed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A head or the product, as a section of an evaluation's page."""

    title: str
    of: str
    """What follows the name of a figure where there are several heads."""
    shown: SingleLabelSection | MultiLabelSection
    accuracy_picture: Markup | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _ComparedPart:
    """The same of a comparison's page."""

    title: str
    of: str
    measure: str
    shown: ChangeSection
    a: Estimate
    b: Estimate
    agreement: Estimate | None
    accuracy_picture: Markup


def render_evaluation(evaluation: Evaluation) -> str:
    """The page that shows an evaluation. Equal evaluations give equal pages.

    Every name in it, of classes and of files, is shown as it is and never read as HTML.
    """
    results = [*evaluation.heads, *([] if evaluation.product is None else [evaluation.product])]
    return _render(
        "evaluation.html.j2",
        it=evaluation,
        parts=[_part(result, alone=len(results) == 1) for result in results],
        most_failures=_MOST_FAILURES,
        command=_command(evaluation),
    )


def render_comparison(comparison: Comparison) -> str:
    """The page that shows a comparison; as `render_evaluation`."""
    results = [*comparison.heads, *([] if comparison.product is None else [comparison.product])]
    return _render(
        "comparison.html.j2",
        it=comparison,
        parts=[_compared_part(result, alone=len(results) == 1) for result in results],
    )


def _command(evaluation: Evaluation) -> str:
    """What evaluates the same again, from the list's folder."""
    options = {"--format": evaluation.list_file.format, "--model": evaluation.model, "--protocol": evaluation.protocol}
    words = ["tubelet", "evaluate", evaluation.list_file.file, *(word for option in options.items() for word in option)]
    if evaluation.list_file.num_skipped:
        words.append("--skip-missing")
    return shlex.join([*words, "--out", "DIR"])


def _part(result: SingleLabelResult | MultiLabelResult, *, alone: bool) -> _Part:
    title, of = _titles(result.name, alone=alone)
    if isinstance(result, MultiLabelResult):
        return _Part(title=title, of=of, shown=multi_label_section(result), accuracy_picture=None)
    accuracy = result.all_videos
    measures = {"top-1": accuracy.top1, "top-5": accuracy.top5, "classes' mean": accuracy.mean_class_accuracy}
    bars = [_bar(name, it) for name, it in measures.items()]
    return _Part(
        title=title,
        of=of,
        shown=single_label_section(result),
        accuracy_picture=draw_intervals(bars, name=f"accuracy-{result.name}"),
    )


def _compared_part(result: SingleLabelComparison | MultiLabelComparison, *, alone: bool) -> _ComparedPart:
    title, of = _titles(result.name, alone=alone)
    agreement = None
    if isinstance(result, SingleLabelComparison):
        measure, a, b = "top-1", result.top1_a, result.top1_b
        if result.agreement is not None:
            number = result.agreement.num_videos
            agreement = proportion(round(result.agreement.share * number), number)
    else:
        measure, a, b = "mean average precision", result.map_a, result.map_b
    bars = [_bar("A", a), _bar("B", b, second=True)]
    return _ComparedPart(
        title=title,
        of=of,
        measure=measure,
        shown=change_section(result),
        a=a,
        b=b,
        agreement=agreement,
        accuracy_picture=draw_intervals(bars, name=f"accuracy-{result.name}"),
    )


def _titles(name: str, *, alone: bool) -> tuple[str, str]:
    return ("The result", "") if alone else (name, f" of {name}")


def _bar(name: str, it: Estimate, *, second: bool = False) -> Bar:
    return Bar(name=name, share=it.value, low=it.low, high=it.high, second=second)


def _render(template: str, **values: object) -> str:
    return render(_environment(), f"own/{template}", **values)


@cache
def _environment() -> Environment:
    return page_environment(
        "tubelet.evaluation",
        {
            "interval": _interval,
            "p_value": _p_value,
            "percent": _percent,
            "points": _points,
            "points_interval": lambda it: f"{_points(it.low)} to {_points(it.high)}",
        },
    )


def _percent(share: float | None, digits: int = 1) -> str:
    return "" if share is None else f"{share * 100:.{digits}f}\N{NO-BREAK SPACE}%"


def _interval(it: Estimate, digits: int = 1) -> str:
    return f"{it.low * 100:.{digits}f} to {_percent(it.high, digits)}"


def _points(difference: float) -> str:
    text = f"{difference * 100:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "\N{MINUS SIGN}")


def _p_value(p: float) -> str:
    return "below 0.0001" if p < 0.0001 else f"{p:.4f}"
