"""What an evaluation found: plain frozen dataclasses, written to ``evaluation.json`` and read from it.

Everywhere a video that failed counts as wrong; beside those figures stand the ones of the answered videos alone.
Shares are from 0 to 1. A *video* here is one row of the list: a whole file, or a part of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tubelet.spec.files import load_json, save_json

__all__ = [
    "Accuracy",
    "Calibration",
    "CalibrationBin",
    "ClassPrecision",
    "ClassScore",
    "Estimate",
    "Evaluation",
    "Failure",
    "ListFile",
    "Mistake",
    "MultiLabelResult",
    "SingleLabelResult",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A figure of the list, and its 95 % interval; see `tubelet.evaluation.intervals`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """How often the right class came first."""

    num_videos: int
    top1: Estimate
    """Share of the videos whose most probable class is the right one."""
    top5: Estimate
    """Share of the videos whose right class is among the five most probable."""
    mean_class_accuracy: Estimate
    """Mean of the classes' own top-1, each class counting the same, over the classes that the list has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """One class of a single-label head."""

    index: int
    name: str
    support: int
    """Videos of this class in the list."""
    top1: float | None
    """None: the list has no video of it."""
    top5: float | None
    confused_with: int | None
    """Index of the class that its videos are most often taken for; None: they never are."""
    confused_count: int
    """How many of them are taken for that one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBin:
    """The answered videos whose best class had a probability above ``low`` and up to ``high``."""

    low: float
    high: float
    count: int
    confidence: float | None
    """Mean probability of the best class; None: no video is in the bin."""
    accuracy: float | None
    """Share of them whose best class is right; None: no video is in the bin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Whether probabilities mean what they say, over the answered videos."""

    negative_log_likelihood: float
    """Mean of minus the natural logarithm of the right class's probability."""
    expected_calibration_error: float
    """See `tubelet.evaluation.calibration`."""
    bins: tuple[CalibrationBin, ...]
    """15 of equal width, from 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """A video whose best class is a wrong one."""

    line: int
    """Where it stands in the list, from 1."""
    video: str
    wanted: int
    """Index of the right class."""
    found: int
    """Index of the most probable class."""
    probability: float
    """Of the most probable class."""
    rank: int
    """Place of the right class, 0 the best."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleLabelResult:
    """A softmax head, or the product of several: every video has exactly one right class."""

    kind: Literal["single_label"]
    name: str
    """The head's name, or the product's (``action`` of Epic-Kitchens)."""
    num_classes: int
    all_videos: Accuracy
    """A failed video counts as wrong."""
    answered: Accuracy | None
    """Without the failed videos; None: all failed."""
    calibration: Calibration | None
    """None: all failed."""
    classes: tuple[ClassScore, ...]
    """Of a head all classes, by index; of a product those combinations that the list has or that were found."""
    confusion: tuple[tuple[int, int, int], ...]
    """(right class, most probable class, number of answered videos), where that number is not 0; sorted."""
    mistakes: tuple[Mistake, ...]
    """The most confident ones, the most probable first; at most 100."""

    def class_name(self, index: int) -> str:
        """Name of a class that occurs in ``classes``, by its index."""
        return next(score.name for score in self.classes if score.index == index)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassPrecision:
    """One class of a multi-label head."""

    index: int
    name: str
    support: int
    """Videos of this class in the list."""
    average_precision: float | None
    """None: the list has no video of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiLabelResult:
    """A sigmoid head: a video has any number of right classes."""

    kind: Literal["multi_label"]
    name: str
    num_classes: int
    all_videos: Estimate
    """Mean average precision over the classes that the list has; the labels of a failed video are never found."""
    answered: Estimate | None
    """Without the failed videos; None: all failed, or the others have no label at all."""
    classes: tuple[ClassPrecision, ...]
    """All classes, by index."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A video that has no answer."""

    line: int
    """Where it stands in the list, from 1."""
    video: str
    code: str
    """One of `tubelet.spec.errors.CODES`."""
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ListFile:
    """The list that was evaluated."""

    file: str
    """Its name, without the folder."""
    format: str
    """One of `tubelet.evaluation.formats.FORMATS`."""
    sha256: str
    """Of its bytes, in hex."""
    num_rows: int
    """Videos that it names."""
    num_skipped: int
    """Those that were left out because their file is missing; 0 unless that was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The score of one model by one protocol on one list."""

    schema_version: Literal[1]
    tubelet_version: str
    """Of the program that wrote this."""
    model: str
    protocol: str
    contract_digest: str
    list_file: ListFile
    num_videos: int
    """Rows that count: all but the skipped ones."""
    num_answered: int
    heads: tuple[SingleLabelResult | MultiLabelResult, ...]
    """In the order of the model's contract."""
    product: SingleLabelResult | None
    """What the heads say together; None: the model has no product."""
    failures: tuple[Failure, ...]
    """In the order of the list."""
    failures_by_code: dict[str, int]
    """The most frequent code first."""
    views: int | None
    """Views of a video by this protocol, the most that one had; None: all failed."""
    server_ms: float | None
    """Median over the answered videos of what the server's steps took, in milliseconds; None: all failed."""
    started_s: float
    """When the first video began, in seconds since 1970 (UTC)."""
    seconds: float
    """From the start of the first video to the end of the last one; pauses of a run in several parts included."""
    resamples: int
    """Of the bootstrap."""
    seed: int
    """Of the bootstrap."""

    @property
    def num_failed(self) -> int:
        return self.num_videos - self.num_answered

    def save(self, path: Path) -> None:
        """Writes the evaluation as JSON; who reads meanwhile sees the old file or the new one."""
        save_json(self, path)

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Reads what `save` wrote.

        Raises:
            InvalidRequestError: ``bad_input``, the file cannot be read or is no evaluation.
        """
        return load_json(cls, path, what="evaluation")
