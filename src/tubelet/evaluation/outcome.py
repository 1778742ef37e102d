"""A labelled list and what a model said of it, put together from the folder of an evaluation.

::

    DIR/list.json        the list, its labels as indices of the model's classes
    DIR/scores/          ledger and Parquet parts, as `tubelet score` writes them, with logits
    DIR/evaluation.json  `tubelet.evaluation.result.Evaluation`
    DIR/report.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tubelet.archive.parts import read_rows, read_run
from tubelet.archive.rows import Run
from tubelet.evaluation.labelled import LabelledList
from tubelet.evaluation.result import Failure
from tubelet.spec.errors import ContractError, InvalidRequestError

__all__ = ["LIST_FILE", "SCORES", "Outcome", "load_outcome"]

LIST_FILE = "list.json"
SCORES = "scores"

_COLUMNS = [
    *("uri", "uri_bytes", "start_s", "end_s", "logits", "views", "server_ms"),
    *("error_code", "error_message", "started_at", "finished_at"),
]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outcome:
    """What a model said of the N videos of a list. C classes of all heads together."""

    labelled: LabelledList
    run: Run
    logits: NDArray[np.float32]
    """``[N, C]``; zeros where a video failed."""
    answered: NDArray[np.bool_]
    """``[N]``."""
    failures: tuple[Failure, ...]
    """In the order of the list."""
    views: int | None
    """The most that one video had; None: all failed."""
    server_ms: float | None
    """Median of the answered videos; None: all failed."""
    started_s: float
    """When the first video began, in seconds since 1970 (UTC)."""
    seconds: float
    """From the start of the first video to the end of the last one."""

    def head_logits(self, head: int) -> NDArray[np.float32]:
        """Logits of one head ``[N, Ch]``."""
        start = sum(len(classes.names) for classes in self.labelled.heads[:head])
        return self.logits[:, start : start + len(self.labelled.heads[head].names)]


def load_outcome(folder: Path) -> Outcome:
    """Joins the list in a folder with its scores.

    Raises:
        InvalidRequestError: ``bad_input``, the folder was not filled by an evaluation, or not to its end.
        ContractError: its scores are damaged, or do not belong to its list.
    """
    labelled = LabelledList.load(folder / LIST_FILE)
    scores = folder / SCORES
    run = read_run(scores)
    places: dict[tuple[str, float | None, float | None], list[int]] = {}
    for place, key in enumerate(zip(labelled.uris, labelled.starts_s, labelled.ends_s, strict=True)):
        places.setdefault(key, []).append(place)
    num_classes = sum(len(head.names) for head in labelled.heads)
    found = _Found(len(labelled), num_classes, labelled)
    for batch in read_rows(scores, _COLUMNS):
        found.take(batch, places)
    if missing := len(labelled) - int(found.seen.sum()):
        raise InvalidRequestError(
            "bad_input", f"{folder} is not finished, {missing} of {len(labelled)} videos are missing; evaluate it again"
        )
    return found.outcome(labelled, run)


class _Found:
    """Scores as they are read, at the places of the list."""

    def __init__(self, num_videos: int, num_classes: int, labelled: LabelledList) -> None:
        self.logits = np.zeros((num_videos, num_classes), dtype=np.float32)
        self.answered = np.zeros(num_videos, dtype=np.bool_)
        self.seen = np.zeros(num_videos, dtype=np.bool_)
        self._labelled = labelled
        self._failures: dict[int, Failure] = {}
        self._views: list[int] = []
        self._server_ms: list[float] = []
        self._times: list[float] = []

    def take(self, batch: pa.RecordBatch, places: dict[tuple[str, float | None, float | None], list[int]]) -> None:
        """Adds the rows of a part."""
        for row, (place_list, plain) in enumerate(_at_places(batch, places)):
            self.seen[place_list] = True
            if not place_list:
                continue
            self._times += [plain["started_at"].timestamp(), plain["finished_at"].timestamp()]
            if plain["error_code"] is not None:
                self._fail(place_list, plain["error_code"], plain["error_message"])
                continue
            logits = batch["logits"][row].values
            values = np.empty(0) if logits is None else logits.to_numpy(zero_copy_only=False)
            if values.shape != (self.logits.shape[1],):
                raise ContractError(
                    "contract_mismatch",
                    f"a score has {len(values)} logits, the list's model has {self.logits.shape[1]} classes; "
                    "evaluate into another folder",
                )
            if not np.isfinite(values).all():
                self._fail(place_list, "internal", "the server's logits are not finite")
                continue
            self.logits[place_list] = values
            self.answered[place_list] = True
            self._views.append(plain["views"])
            self._server_ms += [] if plain["server_ms"] is None else [plain["server_ms"]]

    def outcome(self, labelled: LabelledList, run: Run) -> Outcome:
        """What was found in all parts."""
        return Outcome(
            labelled=labelled,
            run=run,
            logits=self.logits,
            answered=self.answered,
            failures=tuple(self._failures[place] for place in sorted(self._failures)),
            views=max(self._views, default=None),
            server_ms=float(np.median(self._server_ms)) if self._server_ms else None,
            started_s=min(self._times),
            seconds=max(self._times) - min(self._times),
        )

    def _fail(self, places: list[int], code: str, message: str) -> None:
        for place in places:
            line, uri = self._labelled.lines[place], self._labelled.uris[place]
            self._failures[place] = Failure(line=line, video=uri, code=code, message=message)


def _at_places(
    batch: pa.RecordBatch, places: dict[tuple[str, float | None, float | None], list[int]]
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """Each row's places in the list, none where it is not in there, and its columns but for the logits."""
    names = [name for name in batch.schema.names if name != "logits"]
    for plain in batch.select(names).to_pylist():
        raw = plain["uri_bytes"]
        uri = plain["uri"] if raw is None else raw.decode("utf-8", "surrogateescape")
        yield places.get((uri, plain["start_s"], plain["end_s"]), []), plain
