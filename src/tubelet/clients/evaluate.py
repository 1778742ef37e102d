"""Scores a model on a labelled list of videos, through the server: what a caller would get."""

from __future__ import annotations

import csv as csv_files
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tubelet.clients.client import VideoClassifier
from tubelet.clients.ordered import map_ordered
from tubelet.spec.errors import InvalidRequestError, TubeletError

__all__ = ["Evaluation", "Row", "RowResult", "evaluate", "rank_of", "read_rows", "resolve_label"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the list."""

    line: int
    """Where it stands in the file, from 1."""
    video: Path
    label: str
    """A class's name or index, as written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowResult:
    """What became of one row."""

    row: Row
    predicted: str | None
    """Name of the best class; None where the row failed."""
    rank: int | None
    """Place of the right class when classes are ordered by logit, 0 the best; None where the row failed."""
    error: TubeletError | None

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON can hold."""
        error = None if self.error is None else {"code": self.error.code, "message": self.error.message}
        return {
            "line": self.row.line,
            "video": str(self.row.video),
            "label": self.row.label,
            "predicted": self.predicted,
            "rank": self.rank,
            "error": error,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The score of a whole list. A row that failed counts as wrong."""

    model: str
    contract_digest: str
    protocol: str
    num_rows: int
    num_top1: int
    num_top5: int
    failures: tuple[RowResult, ...]
    seconds: float
    """Wall time of all rows together."""

    @property
    def top1(self) -> float:
        """Share of all rows whose best class is the right one."""
        return self.num_top1 / self.num_rows

    @property
    def top5(self) -> float:
        """Share of all rows whose right class is among the best five."""
        return self.num_top5 / self.num_rows

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON can hold."""
        return {
            "model": self.model,
            "contract_digest": self.contract_digest,
            "protocol": self.protocol,
            "rows": self.num_rows,
            "top1": self.top1,
            "top5": self.top5,
            "top1_count": self.num_top1,
            "top5_count": self.num_top5,
            "failed": len(self.failures),
            "seconds": self.seconds,
        }


def evaluate(
    classifier: VideoClassifier,
    csv: Path,
    *,
    protocol: str | None,
    concurrency: int,
    on_result: Callable[[RowResult], None],
) -> Evaluation:
    """Classifies every row of a list and counts how often the right class came first, or among the first five.

    Args:
        classifier: the model that is scored.
        csv: a file with the header ``video,label``; see `read_rows`.
        protocol: as for `VideoClassifier.classify`.
        concurrency: requests in flight.
        on_result: called with each row's result, in the order of the file.

    Raises:
        InvalidRequestError: the list cannot be read, or is empty.
    """
    rows = read_rows(csv)
    started = time.perf_counter()
    results = []
    for result in map_ordered(partial(_score, classifier, protocol), rows, concurrency=concurrency):
        on_result(result)
        results.append(result)
    ranks = [result.rank for result in results if result.rank is not None]
    return Evaluation(
        model=classifier.contract.name,
        contract_digest=classifier.contract.digest,
        protocol=protocol or classifier.contract.default_protocol,
        num_rows=len(rows),
        num_top1=sum(rank < 1 for rank in ranks),
        num_top5=sum(rank < 5 for rank in ranks),
        failures=tuple(result for result in results if result.error is not None),
        seconds=time.perf_counter() - started,
    )


def read_rows(csv: Path) -> list[Row]:
    """Reads a list with the header ``video,label``; other columns are passed over, blank lines too.

    A video's path is relative to the list's folder.

    Raises:
        InvalidRequestError: ``bad_input``, naming the line.
    """
    rows = []
    try:
        with csv.open(encoding="utf-8-sig", newline="") as file:
            reader = csv_files.DictReader(file, strict=True)
            if not {"video", "label"} <= set(reader.fieldnames or ()):
                raise InvalidRequestError("bad_input", f"{csv} must begin with the header 'video,label'")
            for record in reader:
                if not record["video"] or not record["label"]:
                    raise InvalidRequestError("bad_input", f"{csv}, line {reader.line_num}: a video and a label needed")
                rows.append(Row(line=reader.line_num, video=csv.parent / record["video"], label=record["label"]))
    except (OSError, ValueError, csv_files.Error) as exc:
        raise InvalidRequestError("bad_input", f"cannot read the list {csv}: {exc}") from exc
    if not rows:
        raise InvalidRequestError("bad_input", f"{csv} lists no videos")
    return rows


def resolve_label(label: str, names: Mapping[str, int], num_classes: int) -> int:
    """Returns the index of a class that is given by name or, where no class has that name, by index.

    Raises:
        InvalidRequestError: ``bad_input``, the model has no such class.
    """
    if label in names:
        return names[label]
    if label.isascii() and label.isdigit() and len(label) < 10 and int(label) < num_classes:
        return int(label)
    raise InvalidRequestError(
        "bad_input", f"label {label!r} is neither a class's name nor an index below {num_classes}"
    )


def rank_of(index: int, logits: NDArray[np.float32]) -> int:
    """Place of class ``index`` when the classes of ``logits`` ``[C]`` are ordered, 0 the best.

    Among equals the lower index comes first, as with argmax, so rank 0 is the argmax.
    """
    better = logits > logits[index]
    return int(better.sum() + (logits[:index] == logits[index]).sum())


def _score(classifier: VideoClassifier, protocol: str | None, row: Row) -> RowResult:
    num_classes = classifier.contract.num_classes
    try:
        # All labels: they are few, and a name that the list spells otherwise than the model is an error, not a miss.
        found = classifier.classify(row.video, protocol=protocol, top=num_classes)
        index = resolve_label(row.label, {label.name: label.index for label in found.labels}, num_classes)
    except TubeletError as exc:
        return RowResult(row=row, predicted=None, rank=None, error=exc)
    best = int(found.logits.argmax())
    predicted = next((label.name for label in found.labels if label.index == best), str(best))
    return RowResult(row=row, predicted=predicted, rank=rank_of(index, found.logits), error=None)
