"""The figures of an evaluation or of a comparison in some lines, for a terminal, and in one object for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tubelet.evaluation.compared import Comparison, SingleLabelComparison
from tubelet.evaluation.result import Accuracy, Estimate, Evaluation, MultiLabelResult, SingleLabelResult
from tubelet.spec.strict import encode

__all__ = ["describe_comparison", "describe_evaluation", "summarise"]


def describe_evaluation(evaluation: Evaluation) -> Iterator[str]:
    """One line for the run, one for each figure with its interval."""
    results = _results(evaluation)
    count, seconds = evaluation.num_videos, evaluation.seconds
    rate = f", {count / seconds:.1f} per s" if seconds else ""
    yield f"{evaluation.model} {evaluation.protocol}: {count} videos in {seconds:.1f} s{rate}"
    figures = [figure for result in results for figure in _named_figures(result, alone=len(results) == 1)]
    width = max(len(name) for name, _, _ in figures)
    for name, found, num_videos in figures:
        right = "" if num_videos is None else f"  {round(found.value * num_videos)} of {num_videos}"
        interval = f"(95 %: {100 * found.low:.2f} to {100 * found.high:.2f})"
        yield f"  {name:{width}}  {100 * found.value:6.2f} %  {interval}{right}"
    if evaluation.num_failed:
        yield f"  failed {evaluation.num_failed} of {count}, counted as wrong"
    if evaluation.list_file.num_skipped:
        skipped, rows = evaluation.list_file.num_skipped, evaluation.list_file.num_rows
        yield f"  skipped {skipped} of {rows} in the list, their files are missing; they do not count"


def describe_comparison(comparison: Comparison) -> Iterator[str]:
    """One line for each run, some for each head."""
    for name, run in (("A", comparison.a), ("B", comparison.b)):
        failed = f", {run.num_failed} failed" if run.num_failed else ""
        yield f"{name}: {run.model} {run.protocol}{failed}  {run.folder}"
    yield f"{comparison.num_videos} videos; differences are B minus A"
    results = [*comparison.heads, *([] if comparison.product is None else [comparison.product])]
    for result in results:
        name = f" {result.name}" if len(results) > 1 else ""
        single = isinstance(result, SingleLabelComparison)
        a, b = (result.top1_a, result.top1_b) if single else (result.map_a, result.map_b)  # type: ignore[union-attr]
        yield f"  {'top-1' if single else 'mAP'}{name}  {100 * a.value:.2f} % and {100 * b.value:.2f} %"
        low, high = 100 * result.difference.low, 100 * result.difference.high
        yield f"  difference  {100 * result.difference.value:+.2f} points (95 %: {low:+.2f} to {high:+.2f})"
        if isinstance(result, SingleLabelComparison):
            yield from _describe_pairs(result)
        gained = sum(change.b > change.a for change in result.changes)
        yield f"  classes: {gained} gain, {len(result.changes) - gained} lose"
    if comparison.logits is not None:
        logits = comparison.logits
        yield (
            f"  logits: cosine {logits.mean_cosine:.6f} (lowest {logits.lowest_cosine:.6f}), "
            f"largest difference {logits.largest_difference:.3g}"
        )


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """The figures without classes, confusion, failures and mistakes, as plain data that JSON can hold."""
    return {
        "model": evaluation.model,
        "protocol": evaluation.protocol,
        "contract_digest": evaluation.contract_digest,
        "list": encode(evaluation.list_file),
        "rows": evaluation.num_videos,
        "failed": evaluation.num_failed,
        "failures_by_code": evaluation.failures_by_code,
        "seconds": evaluation.seconds,
        "heads": {result.name: _figures(result) for result in evaluation.heads},
        "product": None if evaluation.product is None else {evaluation.product.name: _figures(evaluation.product)},
    }


def _results(evaluation: Evaluation) -> list[SingleLabelResult | MultiLabelResult]:
    return [*evaluation.heads, *([] if evaluation.product is None else [evaluation.product])]


def _named_figures(
    result: SingleLabelResult | MultiLabelResult, *, alone: bool
) -> Iterator[tuple[str, Estimate, int | None]]:
    """Names, figures, and the number of videos of those that are shares of videos."""
    of = "" if alone else f" {result.name}"
    if isinstance(result, MultiLabelResult):
        yield f"mAP{of}", result.all_videos, None
        return
    accuracy = result.all_videos
    yield f"top-1{of}", accuracy.top1, accuracy.num_videos
    yield f"top-5{of}", accuracy.top5, accuracy.num_videos
    yield f"mean class accuracy{of}", accuracy.mean_class_accuracy, None


def _figures(result: SingleLabelResult | MultiLabelResult) -> dict[str, Any]:
    if isinstance(result, MultiLabelResult):
        return {"mean_average_precision": encode(result.all_videos), "answered": encode(result.answered)}
    calibration = result.calibration
    return {
        **_counted(result.all_videos),
        "answered": None if result.answered is None else _counted(result.answered),
        "negative_log_likelihood": None if calibration is None else calibration.negative_log_likelihood,
        "expected_calibration_error": None if calibration is None else calibration.expected_calibration_error,
    }


def _counted(accuracy: Accuracy) -> dict[str, Any]:
    data: dict[str, Any] = encode(accuracy)
    return data


def _describe_pairs(result: SingleLabelComparison) -> Iterator[str]:
    test = result.mcnemar
    yield f"  only A right {test.only_a}, only B right {test.only_b}; McNemar's exact test: p = {test.p_value:.3g}"
    if result.agreement is not None:
        kappa = result.agreement.cohens_kappa
        shown = "" if kappa is None else f", Cohen's kappa {kappa:.3f}"
        yield f"  same answer  {100 * result.agreement.share:.2f} %{shown}"
