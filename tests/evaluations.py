"""Makes evaluations and comparisons of invented answers, for tests of what shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

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
from tubelet.evaluation.result import (
    Accuracy,
    Calibration,
    CalibrationBin,
    ClassPrecision,
    ClassScore,
    Estimate,
    Evaluation,
    Failure,
    ListFile,
    Mistake,
    MultiLabelResult,
    SingleLabelResult,
)

HOSTILE = ("<script>alert('class')</script>", '$\\frac{1}{2}$ & "quoted"', "x" * 120, "日本語のクラス")


def class_names(number: int, *, hostile: bool = True) -> list[str]:
    """Names of a data set's manner; some of them as unkind as a file may hold."""
    plain = [f"playing with object number {index}" if index % 3 else f"class {index}" for index in range(number)]
    return [*HOSTILE, *plain[len(HOSTILE) :]] if hostile else plain


def estimate(value: float, number: int) -> Estimate:
    width = 1.96 * (max(value * (1 - value), 0.01) / max(number, 1)) ** 0.5
    return Estimate(value=value, low=max(value - width, 0.0), high=min(value + width, 1.0))


def single_label(name: str, names: Sequence[str], *, per_class: int = 12, failed: int = 3) -> SingleLabelResult:
    """A head that is right in about four of five videos, and takes many for the next class."""
    draw = np.random.default_rng(len(names))
    wanted = np.repeat(np.arange(len(names)), per_class)
    difficulty = draw.beta(2, 6, len(names))[wanted]
    wrong = draw.random(len(wanted)) < difficulty
    near = np.where(draw.random(len(wanted)) < 0.6, wanted ^ 1, draw.integers(0, len(names), len(wanted)))
    found = np.where(wrong, near % len(names), wanted)
    sure = np.clip(draw.beta(6, 2, len(wanted)) - 0.2 * wrong, 0.01, 0.999)
    answered = np.ones(len(wanted), bool)
    answered[:failed] = False
    right = (found == wanted) & answered
    pairs = Counter(zip(wanted[answered].tolist(), found[answered].tolist(), strict=True))
    return SingleLabelResult(
        kind="single_label",
        name=name,
        num_classes=len(names),
        all_videos=_accuracy(right),
        answered=_accuracy(right[answered]),
        calibration=_calibration(sure[answered], right[answered]),
        classes=tuple(_class(index, names, wanted, right, pairs) for index in range(len(names))),
        confusion=tuple((*pair, count) for pair, count in sorted(pairs.items())),
        mistakes=tuple(
            Mistake(
                line=int(row) + 2,
                video=f"videos/<b>{row}</b>/a rather long name of a file {row}.mp4",
                wanted=int(wanted[row]),
                found=int(found[row]),
                probability=float(sure[row]),
                rank=1 + int(row) % 7,
            )
            for row in np.flatnonzero(answered & ~right)[:100]
        ),
    )


def multi_label(name: str, names: Sequence[str]) -> MultiLabelResult:
    """A sigmoid head; the last class has no video."""
    precisions = np.random.default_rng(1).beta(4, 3, len(names))
    classes = [
        ClassPrecision(
            index=index, name=names[index], support=index % 7 + 1, average_precision=float(precisions[index])
        )
        for index in range(len(names) - 1)
    ]
    last = ClassPrecision(index=len(names) - 1, name=names[-1], support=0, average_precision=None)
    return MultiLabelResult(
        kind="multi_label",
        name=name,
        num_classes=len(names),
        all_videos=estimate(float(precisions[:-1].mean()), 200),
        answered=None,
        classes=(*classes, last),
    )


def evaluation(
    *heads: SingleLabelResult | MultiLabelResult, product: SingleLabelResult | None = None, failed: int = 3
) -> Evaluation:
    """A whole evaluation of these heads; ``failed`` videos have no answer."""
    number = next((head.all_videos.num_videos for head in heads if head.kind == "single_label"), 200)
    failures = [
        Failure(line=line, video=f"<i>{line}</i>.mp4", code=code, message=f"{code}: <script>alert({line})</script>")
        for line, code in zip(range(2, failed + 2), ["truncated", "truncated", "not_a_video"] * failed, strict=False)
    ]
    return Evaluation(
        schema_version=1,
        tubelet_version="0.0.0",
        model="motion",
        protocol="4x3",
        contract_digest="sha256:" + "ab" * 32,
        list_file=ListFile(file="a list.csv", format="kinetics", sha256="cd" * 32, num_rows=number, num_skipped=0),
        num_videos=number,
        num_answered=number - failed,
        heads=heads,
        product=product,
        failures=tuple(failures),
        failures_by_code=dict(Counter(failure.code for failure in failures).most_common()),
        views=12,
        server_ms=123.4,
        started_s=1_700_000_000.0,
        seconds=4321.5,
        resamples=1000,
        seed=0,
    )


def comparison(names: Sequence[str]) -> Comparison:
    """Two runs, of a softmax head and a sigmoid head."""
    draw = np.random.default_rng(2)
    before = draw.random(len(names))
    after = np.clip(before + draw.normal(0, 0.1, len(names)), 0, 1)
    changes = [
        ClassChange(name=name, support=12, a=float(a), b=float(b))
        for name, a, b in zip(names, before, after, strict=True)
    ]
    changes.sort(key=lambda change: change.a - change.b)
    single = SingleLabelComparison(
        kind="single_label",
        name="motion",
        top1_a=estimate(0.8, 480),
        top1_b=estimate(0.825, 480),
        difference=Estimate(value=0.025, low=-0.004, high=0.05),
        mcnemar=McNemar(both_right=370, only_a=14, only_b=26, both_wrong=70, p_value=0.0807),
        agreement=Agreement(num_videos=477, share=430 / 477, cohens_kappa=0.88),
        changes=tuple(changes),
    )
    multi = MultiLabelComparison(
        kind="multi_label",
        name="things",
        map_a=estimate(0.5, 480),
        map_b=estimate(0.5, 480),
        difference=Estimate(value=0.0, low=0.0, high=0.0),
        changes=(),
    )
    a = ComparedRun(
        folder="runs/<a>", model="motion", protocol="1x1", contract_digest="sha256:" + "ab" * 32, num_failed=3
    )
    b = ComparedRun(
        folder="runs/b", model="motion", protocol="4x3", contract_digest="sha256:" + "ab" * 32, num_failed=0
    )
    logits = LogitDistance(num_videos=477, mean_cosine=0.99812, lowest_cosine=0.91, largest_difference=3.25)
    return Comparison(schema_version=1, a=a, b=b, num_videos=480, heads=(single, multi), product=None, logits=logits)


def _accuracy(right: np.ndarray) -> Accuracy:
    top1, number = float(right.mean()), len(right)
    return Accuracy(
        num_videos=number,
        top1=estimate(top1, number),
        top5=estimate(min(1.0, top1 + 0.1), number),
        mean_class_accuracy=estimate(top1 * 0.98, number),
    )


def _class(
    index: int, names: Sequence[str], wanted: np.ndarray, right: np.ndarray, pairs: Counter[tuple[int, int]]
) -> ClassScore:
    mistaken = {found: count for (of, found), count in pairs.items() if of == index and found != index}
    confused = max(mistaken, key=lambda found: (mistaken[found], -found), default=None)
    top1 = float(right[wanted == index].mean())
    return ClassScore(
        index=index,
        name=names[index],
        support=int((wanted == index).sum()),
        top1=top1,
        top5=min(1.0, top1 + 0.1),
        confused_with=confused,
        confused_count=0 if confused is None else mistaken[confused],
    )


def _calibration(sure: np.ndarray, right: np.ndarray) -> Calibration:
    bins = []
    for place in range(15):
        inside = (sure > place / 15) & (sure <= (place + 1) / 15)
        count = int(inside.sum())
        confidence, accuracy = (float(of[inside].mean()) if count else None for of in (sure, right))
        bins.append(
            CalibrationBin(low=place / 15, high=(place + 1) / 15, count=count, confidence=confidence, accuracy=accuracy)
        )
    return Calibration(negative_log_likelihood=0.61234, expected_calibration_error=0.043, bins=tuple(bins))
