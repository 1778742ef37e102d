"""Top-1, top-5, mean class accuracy, classes and confusion of a single-label head, or of a product."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tubelet.evaluation.calibration import calibration_of
from tubelet.evaluation.intervals import estimate, paired_weights
from tubelet.evaluation.ranking import Ranking
from tubelet.evaluation.result import Accuracy, ClassScore, Estimate, Mistake, SingleLabelResult

__all__ = ["accuracy_of", "class_accuracies", "single_label_result"]

_MOST_MISTAKES = 100


def single_label_result(
    name: str,
    ranking: Ranking,
    *,
    class_name: Callable[[int], str],
    every_class: bool,
    clusters: NDArray[np.int64],
    videos: Sequence[tuple[int, str]],
) -> SingleLabelResult:
    """All figures of a head or of a product.

    Args:
        name: of the head or of the product.
        ranking: of N videos.
        class_name: gives the name of a class by its index.
        every_class: list all classes, not only those that occur.
        clusters: ``[N]``, see `tubelet.evaluation.intervals.clusters_of`.
        videos: line and address of each video.
    """
    answered = ranking.answered
    return SingleLabelResult(
        kind="single_label",
        name=name,
        num_classes=ranking.num_classes,
        all_videos=accuracy_of(ranking, np.ones_like(answered), clusters),
        answered=accuracy_of(ranking, answered, clusters) if answered.any() else None,
        calibration=calibration_of(ranking),
        classes=_classes(ranking, class_name, every_class=every_class),
        confusion=_confusion(ranking),
        mistakes=_mistakes(ranking, videos),
    )


def accuracy_of(ranking: Ranking, counted: NDArray[np.bool_], clusters: NDArray[np.int64]) -> Accuracy:
    """Top-1, top-5 and mean class accuracy with their intervals.

    Args:
        ranking: of N videos.
        counted: ``[N]``, the videos that count, at least one.
        clusters: ``[N]``.
    """
    order = np.argsort(ranking.wanted, kind="stable")
    order = order[counted[order]]
    hits = np.stack([ranking.rank[order] < 1, ranking.rank[order] < 5]).astype(np.float64)  # [2, n]
    starts = np.flatnonzero(np.diff(ranking.wanted[order], prepend=-1))  # where each class begins
    value = _shares(np.ones((1, len(order))), hits, starts)
    samples = [_shares(weights[:, order], hits, starts) for weights in paired_weights(clusters)]
    top1, top5, mean = _estimates(value, np.concatenate(samples), _independent(ranking.wanted[order], clusters[order]))
    return Accuracy(num_videos=len(order), top1=top1, top5=top5, mean_class_accuracy=mean)


def class_accuracies(ranking: Ranking, within: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Videos of each class ``[C]``, and those whose right class is among the first ``within`` ``[C]``."""
    hits = ranking.rank < within
    size = ranking.num_classes
    return np.bincount(ranking.wanted, minlength=size), np.bincount(ranking.wanted[hits], minlength=size)


def _shares(weights: NDArray[np.float64], hits: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """``[b, n]`` -> ``[b, 3]``: top-1, top-5, mean class accuracy of each resample."""
    with np.errstate(invalid="ignore"):  # a resample may have no video that counts
        tops = weights @ hits.T / weights.sum(axis=1, keepdims=True)  # [b, 2]
        support = np.add.reduceat(weights, starts, axis=1)  # [b, classes that the list has]
        right = np.add.reduceat(weights * hits[0], starts, axis=1)
        by_class = np.divide(right, support, out=np.zeros_like(right), where=support > 0)
        mean = by_class.sum(axis=1) / np.count_nonzero(support, axis=1)
    return np.column_stack([tops, mean])


def _independent(wanted: NDArray[np.int64], clusters: NDArray[np.int64]) -> tuple[int, int, int]:
    """How many independent videos the three figures of `_shares` rest on, of n videos: ``[n]`` and ``[n]``.

    A mean over classes rests on fewer than all files, as a class of few weighs as much as one of many: on
    1 / sum(w^2) files of weights w that sum to 1 (Kish, *Survey Sampling*, 1965, section 11.7).
    """
    files = len(np.unique(clusters))
    of_class = np.unique(np.stack([wanted, clusters]), axis=1)[0]
    _, counts = np.unique(of_class, return_counts=True)
    return files, files, min(files, int(len(counts) ** 2 / (1 / counts).sum()))


def _estimates(
    value: NDArray[np.float64], samples: NDArray[np.float64], numbers: Sequence[int]
) -> tuple[Estimate, ...]:
    return tuple(estimate(float(value[0, i]), samples[:, i], number=number) for i, number in enumerate(numbers))


def _classes(ranking: Ranking, class_name: Callable[[int], str], *, every_class: bool) -> tuple[ClassScore, ...]:
    support, top1 = class_accuracies(ranking, 1)
    _, top5 = class_accuracies(ranking, 5)
    occurring = np.union1d(ranking.wanted, ranking.found[ranking.answered])
    shown = range(ranking.num_classes) if every_class else occurring.tolist()
    taken_for = _taken_for(ranking)
    return tuple(
        ClassScore(
            index=index,
            name=class_name(index),
            support=int(support[index]),
            top1=float(top1[index] / support[index]) if support[index] else None,
            top5=float(top5[index] / support[index]) if support[index] else None,
            confused_with=taken_for.get(index, (None, 0))[0],
            confused_count=taken_for.get(index, (None, 0))[1],
        )
        for index in shown
    )


def _confusion(ranking: Ranking) -> tuple[tuple[int, int, int], ...]:
    pairs = ranking.wanted[ranking.answered] * ranking.num_classes + ranking.found[ranking.answered]
    cells, counts = np.unique(pairs, return_counts=True)
    wanted, found = np.divmod(cells, ranking.num_classes)
    return tuple(zip(wanted.tolist(), found.tolist(), counts.tolist(), strict=True))


def _taken_for(ranking: Ranking) -> dict[int, tuple[int | None, int]]:
    """By class, the wrong class that it is most often taken for, and how often; the lower index among equals."""
    most: dict[int, tuple[int | None, int]] = {}
    for wanted, found, count in _confusion(ranking):
        if wanted != found and count > most.get(wanted, (None, 0))[1]:
            most[wanted] = (found, count)
    return most


def _mistakes(ranking: Ranking, videos: Sequence[tuple[int, str]]) -> tuple[Mistake, ...]:
    wrong = np.flatnonzero(ranking.answered & (ranking.rank > 0))
    wrong = wrong[np.argsort(-ranking.probability[wrong], kind="stable")][:_MOST_MISTAKES]
    return tuple(
        Mistake(
            line=videos[i][0],
            video=videos[i][1],
            wanted=int(ranking.wanted[i]),
            found=int(ranking.found[i]),
            probability=float(ranking.probability[i]),
            rank=int(ranking.rank[i]),
        )
        for i in wrong
    )
