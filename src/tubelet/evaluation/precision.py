"""Mean average precision of a multi-label head.

The average precision of a class is the mean, over its videos, of the precision at the place of each when all videos are
ordered by their score for the class (`sklearn.metrics.average_precision_score`; Charades' and AVA's mAP is the mean
over the classes that have a video). Equal scores are one place. The videos of a class that failed are never found: they
count in the mean with precision 0.

A video that a resample has twice stands there twice in a row, which raises the precision of its place: resamples are on
average above the list's own figure, though they have no more information. Before the interval is read from them they
are moved by that mean excess.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from tubelet.evaluation.intervals import estimate_unbiased, paired_weights
from tubelet.evaluation.result import ClassPrecision, Estimate, MultiLabelResult
from tubelet.evaluation.targets import Classes

__all__ = ["average_precisions", "map_samples", "multi_label_result"]


def multi_label_result(
    classes: Classes,
    logits: NDArray[np.float32],
    wanted: NDArray[np.bool_],
    answered: NDArray[np.bool_],
    clusters: NDArray[np.int64],
) -> MultiLabelResult:
    """All figures of a multi-label head.

    Args:
        classes: of the head.
        logits: ``[N, C]``; what stands in the rows of failed videos does not count.
        wanted: ``[N, C]``, whether a video has a class.
        answered: ``[N]``.
        clusters: ``[N]``, see `tubelet.evaluation.intervals.clusters_of`.
    """
    precisions = average_precisions(logits, wanted, answered)
    support = wanted.sum(axis=0)
    all_videos = _mean(logits, wanted, answered, clusters)
    alone: Estimate | None = all_videos
    if not answered.all():
        found = wanted & answered[:, None]
        alone = _mean(logits, found, answered, clusters) if found.any() else None
    return MultiLabelResult(
        kind="multi_label",
        name=classes.head,
        num_classes=len(classes.names),
        all_videos=all_videos,
        answered=alone,
        classes=tuple(
            ClassPrecision(
                index=index,
                name=name,
                support=int(support[index]),
                average_precision=float(precisions[index]) if support[index] else None,
            )
            for index, name in enumerate(classes.names)
        ),
    )


def average_precisions(
    logits: NDArray[np.float32], wanted: NDArray[np.bool_], answered: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Average precision of each class ``[C]``; not a number where no video has the class."""
    found = wanted[answered]
    parts = found.sum(axis=0) / np.maximum(wanted.sum(axis=0), 1)
    values = np.where(wanted.any(axis=0), 0.0, np.nan)
    for index in np.flatnonzero(found.any(axis=0)):
        values[index] = parts[index] * average_precision_score(found[:, index], logits[answered, index])
    return values


def map_samples(
    logits: NDArray[np.float32],
    wanted: NDArray[np.bool_],
    answered: NDArray[np.bool_],
    clusters: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Mean average precision of each resample ``[resamples]``, over the classes that the resample has."""
    weights = np.concatenate([batch.astype(np.float32) for batch in paired_weights(clusters)]).T  # [N, resamples]
    total, present = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for index in np.flatnonzero(wanted.any(axis=0)):
        values = _weighted_precision(logits[:, index], wanted[:, index], answered, weights)
        total += np.nan_to_num(values)
        present += ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # a resample may have no label at all
        samples: NDArray[np.float64] = total / present
    return samples


def _mean(
    logits: NDArray[np.float32], wanted: NDArray[np.bool_], answered: NDArray[np.bool_], clusters: NDArray[np.int64]
) -> Estimate:
    value = float(np.nanmean(average_precisions(logits, wanted, answered)))
    samples = map_samples(logits, wanted, answered, clusters)
    return estimate_unbiased(value, samples)


def _weighted_precision(
    scores: NDArray[np.float32], wanted: NDArray[np.bool_], answered: NDArray[np.bool_], weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Average precision of a class in each resample: weights ``[N, b]`` -> ``[b]``."""
    order = np.flatnonzero(answered)
    order = order[np.argsort(-scores[order], kind="stable")]
    # Only places that hold a video of the class count: sums between them are all that is needed of the others.
    tied = np.append(np.diff(scores[order]) != 0, True)  # whether a place ends here
    ends = np.flatnonzero(tied)
    places = np.searchsorted(ends, np.flatnonzero(wanted[order]))
    kept = ends[np.unique(places)] + 1
    if not len(kept):
        return np.where(weights[wanted].sum(axis=0) > 0, 0.0, np.nan)
    starts = np.concatenate([[0], kept[:-1]])
    drawn = weights[order[: kept[-1]]]
    seen = np.cumsum(np.add.reduceat(drawn, starts, axis=0), axis=0)  # [places, b]
    hits = np.add.reduceat(drawn * wanted[order[: kept[-1]], None], starts, axis=0)
    with np.errstate(invalid="ignore"):  # nothing drawn up to a place, or no video of the class at all
        precision = np.cumsum(hits, axis=0) / seen
        samples: NDArray[np.float64] = np.nansum(precision * hits, axis=0) / weights[wanted].sum(axis=0)
    return samples
