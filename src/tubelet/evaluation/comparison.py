"""Compares two runs of the same list: what changes, and whether that could be chance."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from tubelet.evaluation.compared import (
    Agreement,
    ClassChange,
    ComparedRun,
    Comparison,
    LogitDistance,
    McNemar,
    MultiLabelComparison,
    SingleLabelComparison,
)
from tubelet.evaluation.intervals import clusters_of, estimate, estimate_unbiased, paired_weights
from tubelet.evaluation.measure import head_ranking, product_name, product_ranking
from tubelet.evaluation.metrics import class_accuracies
from tubelet.evaluation.outcome import Outcome, load_outcome
from tubelet.evaluation.precision import average_precisions, map_samples
from tubelet.evaluation.ranking import Ranking
from tubelet.spec.errors import InvalidRequestError

__all__ = ["compare", "compare_folders", "mcnemar"]


def compare_folders(a: Path, b: Path) -> Comparison:
    """Compares two folders that `tubelet evaluate --out` has filled.

    Raises:
        InvalidRequestError: ``bad_input``, one of them is none, or they are of different lists; says what differs.
    """
    return compare(load_outcome(a), load_outcome(b), names=(str(a), str(b)))


def compare(a: Outcome, b: Outcome, *, names: tuple[str, str]) -> Comparison:
    """Compares two outcomes of the same list.

    Args:
        a: the first run.
        b: the second run.
        names: how to call them.

    Raises:
        InvalidRequestError: ``bad_input``, they are of different lists.
    """
    _check_same_list(a, b)
    ours, others = a.labelled, b.labelled
    both = a.answered & b.answered
    same_classes = ours.heads == others.heads
    return Comparison(
        schema_version=1,
        a=_run(names[0], a),
        b=_run(names[1], b),
        num_videos=len(ours),
        heads=tuple(
            _multi_label(a, b, head) if classes.activation == "sigmoid" else _single_label(a, b, head)
            for head, classes in enumerate(ours.heads)
        ),
        product=None if None in (ours.product, others.product) else _product(a, b),
        logits=_distance(a.logits[both], b.logits[both]) if same_classes and both.any() else None,
    )


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test of paired answers, each right or not: ``[N]`` and ``[N]``.

    McNemar 1947, in its exact form: were both runs equally good, each video on which only one is right would be either
    one's with probability 1/2.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return McNemar(
        both_right=int((a & b).sum()),
        only_a=only_a,
        only_b=only_b,
        both_wrong=int((~a & ~b).sum()),
        p_value=float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0,
    )


def _check_same_list(a: Outcome, b: Outcome) -> None:
    ours, others = a.labelled, b.labelled
    heads = [tuple((head.head, head.activation) for head in one.heads) for one in (ours, others)]
    if heads[0] != heads[1]:
        shown = [", ".join(f"{name} ({activation})" for name, activation in one) for one in heads]
        raise InvalidRequestError("bad_input", f"the models of the runs have different heads: {shown[0]}; {shown[1]}")
    if len(ours) != len(others):
        raise InvalidRequestError(
            "bad_input",
            f"the runs are of different lists: {ours.list_file.file} with {len(ours)} videos, "
            f"{others.list_file.file} with {len(others)}",
        )
    mine, theirs = _described(a), _described(b)
    for line, one, other in zip(ours.lines, mine, theirs, strict=True):
        if one != other:
            raise InvalidRequestError(
                "bad_input", f"the runs are of different lists: in line {line}, {_shown(one)} is not {_shown(other)}"
            )


def _described(outcome: Outcome) -> Iterable[tuple[object, ...]]:
    """Each row: its video, the part of it, and the names of its labels."""
    labelled = outcome.labelled
    names = (labelled.wanted_names(head) for head in range(len(labelled.heads)))
    return list(zip(labelled.uris, labelled.starts_s, labelled.ends_s, *map(_sorted, names), strict=True))


def _sorted(labels: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [tuple(sorted(names)) for names in labels]


def _shown(row: tuple[object, ...]) -> str:
    uri, start_s, end_s, *labels = row
    part = "" if start_s is None and end_s is None else f" from {start_s} to {end_s} s"
    return f"{uri}{part} with {' and '.join(repr('|'.join(map(str, names))) for names in labels)}"  # type: ignore[call-overload]


def _run(folder: str, outcome: Outcome) -> ComparedRun:
    run = outcome.run
    return ComparedRun(
        folder=folder,
        model=run.model,
        protocol=run.protocol,
        contract_digest=run.contract_digest,
        num_failed=int((~outcome.answered).sum()),
    )


def _single_label(a: Outcome, b: Outcome, head: int) -> SingleLabelComparison:
    rankings = head_ranking(a, head), head_ranking(b, head)
    names = a.labelled.heads[head].names, b.labelled.heads[head].names
    found = [
        np.array([names[which][index] for index in ranking.found], dtype=object)
        for which, ranking in enumerate(rankings)
    ]
    return _compared(a, a.labelled.heads[head].head, rankings, found, dict(enumerate(names[0])))


def _product(a: Outcome, b: Outcome) -> SingleLabelComparison:
    rankings = product_ranking(a), product_ranking(b)
    found = [
        np.array([product_name(outcome, max(0, int(index))) for index in ranking.found], dtype=object)
        for outcome, ranking in zip((a, b), rankings, strict=True)
    ]
    occurring = {int(index): product_name(a, int(index)) for index in np.unique(rankings[0].wanted)}
    return _compared(a, str(a.labelled.product), rankings, found, occurring)


def _compared(
    a: Outcome,
    name: str,
    rankings: tuple[Ranking, Ranking],
    found: list[NDArray[np.object_]],
    class_names: dict[int, str],
) -> SingleLabelComparison:
    """Compares two rankings of the same videos; classes are A's, ``found`` the names that each run found."""
    right = [ranking.rank == 0 for ranking in rankings]
    clusters = clusters_of(a.labelled.uris)
    hits = np.stack([right[0], right[1], right[1].astype(np.float64) - right[0]])  # [3, N]
    drawn = [weights @ hits.T / weights.sum(axis=1, keepdims=True) for weights in paired_weights(clusters)]
    samples = np.concatenate(drawn)  # [resamples, 3]
    files = int(clusters.max()) + 1
    top1_a, top1_b = (estimate(float(hits[i].mean()), samples[:, i], number=files) for i in range(2))
    both = rankings[0].answered & rankings[1].answered
    wanted = rankings[0].wanted
    support, hits_a = class_accuracies(rankings[0])
    hits_b = np.bincount(wanted[right[1]], minlength=len(support))
    changed = np.flatnonzero(hits_a != hits_b)
    return SingleLabelComparison(
        kind="single_label",
        name=name,
        top1_a=top1_a,
        top1_b=top1_b,
        difference=estimate(float(hits[2].mean()), samples[:, 2]),
        mcnemar=mcnemar(*right),
        agreement=_agreement(found[0][both], found[1][both]) if both.any() else None,
        changes=_sorted_changes(
            ClassChange(
                name=class_names[i],
                support=int(support[i]),
                a=float(hits_a[i] / support[i]),
                b=float(hits_b[i] / support[i]),
            )
            for i in changed.tolist()
        ),
    )


def _multi_label(a: Outcome, b: Outcome, head: int) -> MultiLabelComparison:
    classes, other = a.labelled.heads[head], b.labelled.heads[head]
    if classes != other:
        raise InvalidRequestError("bad_input", f"the models of the runs have different classes in {classes.head}")
    wanted, clusters = a.labelled.right_classes(head), clusters_of(a.labelled.uris)
    precisions, samples = [], []
    for outcome in (a, b):
        precisions.append(average_precisions(outcome.head_logits(head), wanted, outcome.answered))
        samples.append(map_samples(outcome.head_logits(head), wanted, outcome.answered, clusters))
    means = [float(np.nanmean(values)) for values in precisions]
    return MultiLabelComparison(
        kind="multi_label",
        name=classes.head,
        map_a=estimate_unbiased(means[0], samples[0]),
        map_b=estimate_unbiased(means[1], samples[1]),
        difference=estimate_unbiased(means[1] - means[0], samples[1] - samples[0], lowest=-1.0),
        changes=_sorted_changes(
            ClassChange(
                name=name, support=int(wanted[:, i].sum()), a=float(precisions[0][i]), b=float(precisions[1][i])
            )
            for i, name in enumerate(classes.names)
            if wanted[:, i].any() and precisions[0][i] != precisions[1][i]
        ),
    )


def _agreement(a: NDArray[np.object_], b: NDArray[np.object_]) -> Agreement:
    names, codes = np.unique(np.concatenate([a, b]).astype(str), return_inverse=True)
    one, other = codes[: len(a)], codes[len(a) :]
    # Where both always name one and the same class, chance explains all and kappa is 0 / 0.
    kappa = float(cohen_kappa_score(one, other)) if len(names) > 1 else None
    return Agreement(num_videos=len(a), share=float((one == other).mean()), cohens_kappa=kappa)


def _distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> LogitDistance:
    one, other = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines = np.divide((one * other).sum(axis=1), lengths, out=np.ones(len(one)), where=lengths > 0)
    return LogitDistance(
        num_videos=len(one),
        mean_cosine=float(cosines.mean()),
        lowest_cosine=float(cosines.min()),
        largest_difference=float(np.abs(one - other).max()),
    )


def _sorted_changes(changes: Iterable[ClassChange]) -> tuple[ClassChange, ...]:
    return tuple(sorted(changes, key=lambda change: (change.a - change.b, change.name)))
