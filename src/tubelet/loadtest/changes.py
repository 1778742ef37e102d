"""What a comparison of two results says, in words and in an order that puts first what matters most."""

from __future__ import annotations

from dataclasses import dataclass

from tubelet.loadtest.compared import ComparedFigure, Comparison
from tubelet.loadtest.quantities import NOTHING, describe_time_ms, number

__all__ = ["Change", "describe_outcome", "list_changes"]


_REGRESSION, _WORSE, _BETTER, _NOISE = "regression", "worse", "better", "noise"
_UNKNOWN, _NOT_JUDGED = "not known", "not judged"
_ORDER = (_REGRESSION, _WORSE, _BETTER, _NOISE, _UNKNOWN, _NOT_JUDGED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A figure of both results, ready to be shown."""

    kind: str
    """Of request."""
    figure: str
    a: str
    b: str
    change: str
    """From A to B."""
    interval: str
    """95 %, of the change."""
    verdict: str
    """``regression``; ``worse``: beyond noise, within the threshold; ``better``: beyond noise; ``noise``;
    ``not known``: whether it is noise; ``not judged``: the loads differ."""
    is_regression: bool
    span: tuple[float, float, float] | None
    """Low, found and high of a relative change, as shares; None: it is not relative, or its interval is not known."""


def list_changes(comparison: Comparison) -> list[Change]:
    """All figures, regressions first, then other changes, then what did not change."""
    highest, judged = comparison.highest_rate, comparison.is_same_load
    changes = [] if highest is None else [_shown("all", highest, is_judged=True)]
    changes += [_shown(kind.name, figure, is_judged=judged) for kind in comparison.kinds for figure in kind.figures]
    return sorted(changes, key=lambda change: _ORDER.index(change.verdict))


def describe_outcome(comparison: Comparison) -> str:
    """The comparison in one sentence."""
    found = list_changes(comparison)
    regressions = [one for one in found if one.is_regression]
    if not regressions:
        changes = sum(one.verdict in (_BETTER, _WORSE) for one in found)
        rest = f"{changes} of {len(found)} figures changed beyond noise" if changes else "nothing changed beyond noise"
        return f"No regression above {100 * comparison.threshold:g} %: {rest}."
    named = ", ".join(f"{one.figure} of {one.kind} {one.change}" for one in regressions)
    return f"B is worse by more than {100 * comparison.threshold:g} %: {named}."


def _verdict(it: ComparedFigure, *, is_judged: bool) -> str:
    if not is_judged:
        return _NOT_JUDGED
    if it.is_regression:
        return _REGRESSION
    if it.is_changed:
        return _WORSE if it.is_worse else _BETTER
    return _NOISE if it.low is not None else _UNKNOWN


def _shown(kind: str, it: ComparedFigure, *, is_judged: bool) -> Change:
    interval = NOTHING
    if it.low is not None and it.high is not None:
        interval = f"{_signed(it.low)} to {_signed(it.high)} {_change_unit(it)}"
    return Change(
        kind=kind,
        figure=it.name,
        a=_value(it, it.a),
        b=_value(it, it.b),
        change=_change(it, it.difference),
        interval=interval,
        verdict=_verdict(it, is_judged=is_judged),
        is_regression=it.is_regression,
        span=_span(it),
    )


def _span(it: ComparedFigure) -> tuple[float, float, float] | None:
    if it.name == "errors" or it.low is None or it.difference is None or it.high is None:
        return None
    return it.low, it.difference, it.high


def _value(it: ComparedFigure, value: float) -> str:
    if it.name == "highest rate" and not value:
        return "none"
    return describe_time_ms(value) if it.unit == "ms" else f"{number(value)} {it.unit}"


def _change(it: ComparedFigure, change: float | None) -> str:
    if change is None:
        return NOTHING
    return f"{_signed(change)} {_change_unit(it)}"


def _signed(change: float) -> str:
    return f"{'+' if change > 0 else ''}{number(100 * change)}"


def _change_unit(it: ComparedFigure) -> str:
    return "points" if it.name == "errors" else "%"
