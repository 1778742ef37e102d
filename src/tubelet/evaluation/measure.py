"""From what a model said of a list to the figures of `tubelet.evaluation.result.Evaluation`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

import tubelet
from tubelet.evaluation.intervals import RESAMPLES, SEED, clusters_of
from tubelet.evaluation.metrics import single_label_result
from tubelet.evaluation.outcome import Outcome
from tubelet.evaluation.precision import multi_label_result
from tubelet.evaluation.ranking import Ranking, rank_head, rank_product
from tubelet.evaluation.result import Evaluation, MultiLabelResult, SingleLabelResult

__all__ = ["head_ranking", "measure", "product_name", "product_ranking", "row_answers"]


def measure(outcome: Outcome) -> Evaluation:
    """Computes all figures; tens of thousands of videos with hundreds of classes take seconds."""
    labelled, run = outcome.labelled, outcome.run
    codes = Counter(failure.code for failure in outcome.failures)
    return Evaluation(
        schema_version=1,
        tubelet_version=tubelet.__version__,
        model=run.model,
        protocol=run.protocol,
        contract_digest=run.contract_digest,
        list_file=labelled.list_file,
        num_videos=len(labelled),
        num_answered=int(outcome.answered.sum()),
        heads=tuple(_head_result(outcome, head) for head in range(len(labelled.heads))),
        product=_product_result(outcome),
        failures=outcome.failures,
        failures_by_code=dict(codes.most_common()),
        views=outcome.views,
        server_ms=outcome.server_ms,
        started_s=outcome.started_s,
        seconds=outcome.seconds,
        resamples=RESAMPLES,
        seed=SEED,
    )


def head_ranking(outcome: Outcome, head: int) -> Ranking:
    """Places of the right classes of a softmax head."""
    return rank_head(outcome.head_logits(head), outcome.labelled.right_class(head), outcome.answered)


def product_ranking(outcome: Outcome) -> Ranking:
    """Places of the right combinations of a model with a product."""
    heads = range(len(outcome.labelled.heads))
    return rank_product(
        [outcome.head_logits(head) for head in heads],
        [outcome.labelled.right_class(head) for head in heads],
        outcome.answered,
    )


def product_name(outcome: Outcome, index: int) -> str:
    """Name of a combination of classes: theirs side by side, as the server writes it."""
    heads = outcome.labelled.heads
    indices = np.unravel_index(index, [len(head.names) for head in heads])
    return ", ".join(head.names[one] for head, one in zip(heads, indices, strict=True))


def row_answers(outcome: Outcome) -> Iterator[dict[str, object]]:
    """What became of each row, as plain data that JSON can hold.

    ``heads`` has, of a softmax head, the right class, the most probable one, and the right one's rank, 0 the best (both
    None where the video failed); of a sigmoid head the right classes and their logits.
    """
    labelled = outcome.labelled
    wanted = [labelled.wanted_names(head) for head in range(len(labelled.heads))]
    rankings = [
        head_ranking(outcome, head) if classes.activation == "softmax" else None
        for head, classes in enumerate(labelled.heads)
    ]
    errors = {(failure.line, failure.video): failure for failure in outcome.failures}
    for row, (line, uri) in enumerate(zip(labelled.lines, labelled.uris, strict=True)):
        error = errors.get((line, uri))
        heads: dict[str, object] = {}
        for head, (classes, ranking) in enumerate(zip(labelled.heads, rankings, strict=True)):
            if ranking is None:
                logits = outcome.head_logits(head)[row, list(labelled.wanted[head][row])].tolist()
                heads[classes.head] = {"wanted": wanted[head][row], "logits": None if error else logits}
            else:
                found = None if error else classes.names[ranking.found[row]]
                rank = None if error else int(ranking.rank[row])
                heads[classes.head] = {"wanted": wanted[head][row][0], "found": found, "rank": rank}
        failed = None if error is None else {"code": error.code, "message": error.message}
        yield {"line": line, "video": uri, "heads": heads, "error": failed}


def _head_result(outcome: Outcome, head: int) -> SingleLabelResult | MultiLabelResult:
    classes = outcome.labelled.heads[head]
    clusters = clusters_of(outcome.labelled.uris)
    if classes.activation == "sigmoid":
        wanted = outcome.labelled.right_classes(head)
        return multi_label_result(classes, outcome.head_logits(head), wanted, outcome.answered, clusters)
    return single_label_result(
        classes.head,
        head_ranking(outcome, head),
        class_name=classes.names.__getitem__,
        every_class=True,
        clusters=clusters,
        videos=list(zip(outcome.labelled.lines, outcome.labelled.uris, strict=True)),
    )


def _product_result(outcome: Outcome) -> SingleLabelResult | None:
    if outcome.labelled.product is None:
        return None
    return single_label_result(
        outcome.labelled.product,
        product_ranking(outcome),
        class_name=lambda index: product_name(outcome, index),
        every_class=False,
        clusters=clusters_of(outcome.labelled.uris),
        videos=list(zip(outcome.labelled.lines, outcome.labelled.uris, strict=True)),
    )
