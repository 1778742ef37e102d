"""What a report shows of a head: which classes, pairs and pictures, and the intervals that go with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from tubelet.evaluation.compared import ClassChange, MultiLabelComparison, SingleLabelComparison
from tubelet.evaluation.figures import (
    Step,
    draw_changes,
    draw_classes,
    draw_confusion,
    draw_reliability,
)
from tubelet.evaluation.intervals import proportion
from tubelet.evaluation.result import ClassPrecision, ClassScore, Estimate, MultiLabelResult, SingleLabelResult

__all__ = [
    "ChangeSection",
    "MultiLabelSection",
    "Pair",
    "ScoredClass",
    "SingleLabelSection",
    "change_section",
    "multi_label_section",
    "single_label_section",
]

MOST_IN_HEAT_MAP = 60
"""Classes; of more, `_BUSIEST` are drawn."""
_BUSIEST = 40
_MOST_PAIRS = 20
_MOST_ENDS = 20
"""Classes in the tables of the best and of the worst."""
_MOST_ROWS = 1000
"""Classes in the table of all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredClass:
    """A class that the list has, with its top-1 and the 95 % interval by Wilson."""

    score: ClassScore
    top1: Estimate
    right: int
    """Videos of it that were answered rightly."""
    confused_with: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Videos of one class that were taken for another."""

    wanted: str
    found: str
    count: int
    share: Estimate
    """Of the answered videos of the wanted class."""
    num_wanted: int
    """Answered videos of the wanted class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleLabelSection:
    """All that is shown of a softmax head or of a product."""

    result: SingleLabelResult
    names: dict[int, str]
    best: tuple[ScoredClass, ...]
    worst: tuple[ScoredClass, ...]
    """The worst first."""
    classes: tuple[ScoredClass, ...]
    """By index; of very many, those with the most videos."""
    num_scored: int
    """Classes that the list has."""
    pairs: tuple[Pair, ...]
    """The most frequent first."""
    num_in_heat_map: int
    num_occurring: int
    """Classes that an answered video has or was taken for."""
    class_picture: Markup
    confusion_picture: Markup | None
    """None: no video was answered."""
    reliability_picture: Markup | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiLabelSection:
    """All that is shown of a sigmoid head."""

    result: MultiLabelResult
    best: tuple[ClassPrecision, ...]
    worst: tuple[ClassPrecision, ...]
    """The worst first."""
    classes: tuple[ClassPrecision, ...]
    num_scored: int
    class_picture: Markup


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeSection:
    """All that is shown of a head in two runs."""

    result: SingleLabelComparison | MultiLabelComparison
    gains: tuple[ClassChange, ...]
    """The largest first."""
    losses: tuple[ClassChange, ...]
    """The largest first."""
    changes_picture: Markup | None
    """None: every class fares the same."""


def single_label_section(result: SingleLabelResult) -> SingleLabelSection:
    """Chooses and draws what a report shows of a softmax head or a product."""
    names = {score.index: score.name for score in result.classes}
    scored = [_scored(score, names) for score in result.classes if score.top1 is not None]
    best = sorted(scored, key=lambda one: (-one.top1.value, -one.score.support, one.score.index))
    worst = sorted(scored, key=lambda one: (one.top1.value, -one.score.support, one.score.index))
    shown = sorted(scored, key=lambda one: (-one.score.support, one.score.index))[:_MOST_ROWS]
    shares = np.array([one.top1.value for one in scored])
    chosen = _in_heat_map(result)
    return SingleLabelSection(
        result=result,
        names=names,
        best=tuple(best[:_MOST_ENDS]),
        worst=tuple(worst[:_MOST_ENDS]),
        classes=tuple(sorted(shown, key=lambda one: one.score.index)),
        num_scored=len(scored),
        pairs=tuple(_pairs(result, names)),
        num_in_heat_map=len(chosen),
        num_occurring=len(_occurring(result)),
        class_picture=draw_classes(
            shares, result.all_videos.top1.value, measure="top-1", name=f"classes-{result.name}"
        ),
        confusion_picture=_confusion_picture(result, names, chosen),
        reliability_picture=_reliability_picture(result),
    )


def multi_label_section(result: MultiLabelResult) -> MultiLabelSection:
    """Chooses and draws what a report shows of a sigmoid head."""
    scored = [one for one in result.classes if one.average_precision is not None]
    ordered = sorted(scored, key=lambda one: (-(one.average_precision or 0), -one.support, one.index))
    precisions = np.array([one.average_precision for one in scored], np.float64)
    return MultiLabelSection(
        result=result,
        best=tuple(ordered[:_MOST_ENDS]),
        worst=tuple(ordered[::-1][:_MOST_ENDS]),
        classes=tuple(scored[:_MOST_ROWS]),
        num_scored=len(scored),
        class_picture=draw_classes(
            precisions, result.all_videos.value, measure="average precision", name=f"classes-{result.name}"
        ),
    )


def change_section(result: SingleLabelComparison | MultiLabelComparison) -> ChangeSection:
    """Chooses and draws what a report shows of a head in two runs."""
    differences = np.array([change.b - change.a for change in result.changes], np.float64)
    measure = "top-1" if result.kind == "single_label" else "average precision"
    drawn = draw_changes(differences, measure=measure, name=f"changes-{result.name}") if result.changes else None
    return ChangeSection(
        result=result,
        gains=tuple(change for change in result.changes if change.b > change.a)[:_MOST_ENDS],
        losses=tuple(change for change in reversed(result.changes) if change.b < change.a)[:_MOST_ENDS],
        changes_picture=drawn,
    )


def _scored(score: ClassScore, names: dict[int, str]) -> ScoredClass:
    right = round((score.top1 or 0.0) * score.support)
    return ScoredClass(
        score=score,
        right=right,
        top1=proportion(right, score.support),
        confused_with=None if score.confused_with is None else names[score.confused_with],
    )


def _pairs(result: SingleLabelResult, names: dict[int, str]) -> list[Pair]:
    answered: Counter[int] = Counter()
    for wanted, _, count in result.confusion:
        answered[wanted] += count
    mistaken = [entry for entry in result.confusion if entry[0] != entry[1]]
    mistaken.sort(key=lambda entry: (-entry[2], -entry[2] / answered[entry[0]], entry))
    return [
        Pair(
            wanted=names[wanted],
            found=names[found],
            count=count,
            share=proportion(count, answered[wanted]),
            num_wanted=answered[wanted],
        )
        for wanted, found, count in mistaken[:_MOST_PAIRS]
    ]


def _occurring(result: SingleLabelResult) -> set[int]:
    return {index for wanted, found, _ in result.confusion for index in (wanted, found)}


def _in_heat_map(result: SingleLabelResult) -> list[int]:
    """Indices of the classes to draw: all; of many the busiest ones, confused ones beside each other."""
    occurring = _occurring(result)
    if len(occurring) <= MOST_IN_HEAT_MAP:
        return sorted(occurring)
    mistakes: Counter[int] = Counter()
    for wanted, found, count in result.confusion:
        if wanted != found:
            mistakes.update({wanted: count, found: count})
    busiest = sorted(occurring, key=lambda index: (-mistakes[index], index))[:_BUSIEST]
    counts = _matrix(result, busiest)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    near = shares + shares.T
    np.fill_diagonal(near, 2.0)
    order = leaves_list(linkage(squareform(2.0 - near, checks=False), "average"))
    return [busiest[place] for place in order]


def _matrix(result: SingleLabelResult, chosen: Sequence[int]) -> NDArray[np.int64]:
    """``[K, K]``: videos of K classes (rows) by the answer (columns), as far as both are chosen."""
    places = {index: place for place, index in enumerate(chosen)}
    counts = np.zeros((len(chosen), len(chosen)), np.int64)
    for wanted, found, count in result.confusion:
        if wanted in places and found in places:
            counts[places[wanted], places[found]] = count
    return counts


def _confusion_picture(result: SingleLabelResult, names: dict[int, str], chosen: Sequence[int]) -> Markup | None:
    if not chosen:
        return None
    answered: Counter[int] = Counter()
    for wanted, _, count in result.confusion:
        answered[wanted] += count
    return draw_confusion(
        _matrix(result, chosen),
        np.array([answered[index] for index in chosen]),
        [names[index] for index in chosen],
        chosen,
        name=f"confusion-{result.name}",
    )


def _reliability_picture(result: SingleLabelResult) -> Markup | None:
    if result.calibration is None:
        return None
    steps = []
    for one in result.calibration.bins:
        if one.confidence is not None and one.accuracy is not None:
            share = proportion(round(one.accuracy * one.count), one.count)
            steps.append(
                Step(confidence=one.confidence, right=share.value, low=share.low, high=share.high, count=one.count)
            )
    counts = [one.count for one in result.calibration.bins]
    return draw_reliability(steps, counts, name=f"reliability-{result.name}")
