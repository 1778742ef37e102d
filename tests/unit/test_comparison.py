"""Two runs of one list: McNemar's test by textbooks, differences by hand, and lists that are not the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.metrics import cohen_kappa_score

from tubelet.archive.rows import Run
from tubelet.evaluation.compared import SingleLabelComparison
from tubelet.evaluation.comparison import compare, mcnemar
from tubelet.evaluation.labelled import LabelledList
from tubelet.evaluation.measure import measure
from tubelet.evaluation.outcome import Outcome
from tubelet.evaluation.result import Failure, ListFile
from tubelet.evaluation.targets import Classes
from tubelet.evaluation.words import describe_comparison, describe_evaluation, summarise
from tubelet.spec.errors import InvalidRequestError

NAMES = ("left", "right", "up", "down")
MOTION = Classes(head="motion", activation="softmax", names=NAMES)
TAGS = Classes(head="tags", activation="sigmoid", names=("dog", "ball"))
NOUN = Classes(head="noun", activation="softmax", names=("tap", "spoon", "plate"))
VERB = Classes(head="verb", activation="softmax", names=("take", "put"))


def outcome(
    logits: NDArray[np.float32],
    wanted: Sequence[tuple[tuple[int, ...], ...]],
    *,
    heads: tuple[Classes, ...] = (MOTION,),
    product: str | None = None,
    failed: tuple[int, ...] = (),
    protocol: str = "1x1",
) -> Outcome:
    rows = len(logits)
    answered = np.ones(rows, bool)
    answered[list(failed)] = False
    labelled = LabelledList(
        schema_version=1,
        list_file=ListFile(file="list.csv", format="csv", sha256="0" * 64, num_rows=rows, num_skipped=0),
        heads=heads,
        product=product,
        lines=tuple(range(2, rows + 2)),
        uris=tuple(f"/{row}.mp4" for row in range(rows)),
        starts_s=(None,) * rows,
        ends_s=(None,) * rows,
        wanted=tuple(wanted),
    )
    return Outcome(
        labelled=labelled,
        run=Run(model="demo", protocol=protocol, contract_digest="sha256:0", top=4, keeps_logits=True),
        logits=np.where(answered[:, None], logits, 0).astype(np.float32),
        answered=answered,
        failures=tuple(Failure(line=i + 2, video=f"/{i}.mp4", code="truncated", message="it ends") for i in failed),
        views=1,
        server_ms=9.25,
        started_s=0.0,
        seconds=2.0,
    )


def says(found: list[int]) -> NDArray[np.float32]:
    """Logits whose most probable classes are these."""
    return (3 * np.eye(4)[found]).astype(np.float32)


def wants(right: list[int]) -> list[tuple[tuple[int, ...], ...]]:
    return [tuple((index,) for index in right)]


def single(a: Outcome, b: Outcome) -> SingleLabelComparison:
    (head,) = compare(a, b, names=("a", "b")).heads
    assert isinstance(head, SingleLabelComparison)
    return head


def pairs(both_right: int, only_a: int, only_b: int, both_wrong: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    counts = (both_right, only_a, only_b, both_wrong)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(
    ("table", "p_value"),
    [
        # Fagerland, Lydersen and Laake 2013, table 1: airway hyper-responsiveness of 21 children before and after stem
        # cell transplantation; their exact conditional McNemar test gives 0.0703.
        ((1, 1, 7, 12), 0.0703125),
        # Agresti, Categorical Data Analysis, approval of a prime minister: 150 against 86 of 1600.
        ((794, 150, 86, 570), 2 * binom.cdf(86, 236, 0.5)),
        ((5, 0, 0, 5), 1.0),
        ((0, 3, 3, 0), 1.0),
        ((0, 6, 0, 0), 2 / 64),
    ],
)
def test_mcnemars_test_by_textbooks(table: tuple[int, int, int, int], p_value: float) -> None:
    found = mcnemar(*pairs(*table))
    assert (found.both_right, found.only_a, found.only_b, found.both_wrong) == table
    assert found.p_value == pytest.approx(p_value)


@given(*[st.integers(0, 30)] * 4)
def test_mcnemars_test_takes_no_side(both: int, only_a: int, only_b: int, neither: int) -> None:
    if both + only_a + only_b + neither:
        a, b = pairs(both, only_a, only_b, neither)
        assert mcnemar(a, b).p_value == pytest.approx(mcnemar(b, a).p_value)
        assert 0 < mcnemar(a, b).p_value <= 1


def test_two_runs_by_hand() -> None:
    right = [0, 0, 1, 1, 2, 2, 3, 3]
    a = outcome(says([0, 1, 1, 1, 2, 3, 0, 3]), wants(right))
    b = outcome(says([0, 0, 1, 1, 0, 2, 0, 3]), wants(right), failed=(7,), protocol="4x3")
    found = compare(a, b, names=("one", "other"))
    assert (found.a.folder, found.a.protocol, found.b.protocol, found.b.num_failed) == ("one", "1x1", "4x3", 1)
    head = single(a, b)
    assert (head.top1_a.value, head.top1_b.value, head.difference.value) == (5 / 8, 5 / 8, 0)
    assert (head.mcnemar.only_a, head.mcnemar.only_b, head.mcnemar.both_right) == (2, 2, 3)
    assert head.difference.low < 0 < head.difference.high
    assert head.agreement is not None
    assert (head.agreement.num_videos, head.agreement.share) == (7, 4 / 7)
    kappa = cohen_kappa_score([0, 1, 1, 1, 2, 3, 0], [0, 0, 1, 1, 0, 2, 0])
    assert head.agreement.cohens_kappa == pytest.approx(kappa)
    assert [(it.name, it.support, it.a, it.b) for it in head.changes] == [("left", 2, 0.5, 1.0), ("down", 2, 0.5, 0.0)]
    assert found.logits is not None
    assert (found.logits.num_videos, found.logits.lowest_cosine, found.logits.largest_difference) == (7, 0, 3)
    text = "\n".join(describe_comparison(found))
    assert "B: demo 4x3, 1 failed  other" in text
    assert "only A right 2, only B right 2; McNemar's exact test: p = 1" in text
    assert "classes: 1 gain, 1 lose" in text


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=30))
def test_the_other_way_round_differences_change_their_sign(rows: list[tuple[int, int, int]]) -> None:
    right, one, other = (list(column) for column in zip(*rows, strict=True))
    a, b = outcome(says(one), wants(right)), outcome(says(other), wants(right))
    there, back = single(a, b), single(b, a)
    assert there.difference.value == -back.difference.value
    assert there.difference.low == pytest.approx(-back.difference.high)
    assert there.difference.low <= there.difference.value <= there.difference.high
    assert there.mcnemar.p_value == back.mcnemar.p_value
    assert len(there.changes) == len(back.changes)
    same = single(a, a)
    assert (same.difference.low, same.difference.high, same.changes) == (0, 0, ())
    assert same.agreement is not None
    assert same.agreement.share == 1


def test_a_paired_interval_is_narrower_than_the_two_alone() -> None:
    random = np.random.default_rng(6)
    right = random.integers(4, size=300).tolist()
    one = [r if random.random() < 0.7 else (r + 1) % 4 for r in right]
    other = [r if random.random() < 0.05 else o for r, o in zip(right, one, strict=True)]
    found = single(outcome(says(one), wants(right)), outcome(says(other), wants(right)))
    assert found.difference.high - found.difference.low < 0.5 * (found.top1_a.high - found.top1_a.low)
    assert found.difference.value >= 0
    assert found.mcnemar.only_a == 0


def test_models_whose_classes_stand_in_another_order_are_compared_by_name() -> None:
    turned = replace(MOTION, names=NAMES[::-1])
    a = outcome(says([0, 1, 2]), wants([0, 1, 3]))
    b = outcome(says([3, 2, 1]), wants([3, 2, 0]), heads=(turned,))
    found = compare(a, b, names=("a", "b"))
    assert found.logits is None
    (head,) = found.heads
    assert isinstance(head, SingleLabelComparison)
    assert head.agreement is not None
    assert (head.agreement.share, head.mcnemar.both_right, head.mcnemar.both_wrong) == (1, 2, 1)


def test_runs_without_a_common_answer() -> None:
    a, b = outcome(says([0, 1]), wants([0, 1]), failed=(0,)), outcome(says([0, 1]), wants([0, 1]), failed=(1,))
    found = compare(a, b, names=("a", "b"))
    assert found.logits is None
    assert single(a, b).agreement is None
    assert single(a, b).mcnemar.p_value == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda it: outcome(says([0, 1, 2]), wants([0, 1, 2])), "different lists: list.csv with 2 videos, .* with 3"),
        (lambda it: outcome(says([0, 1]), wants([0, 2])), r"in line 3, /1.mp4 with 'right' is not /1.mp4 with 'up'"),
        (
            lambda it: replace(it, labelled=replace(it.labelled, uris=("/0.mp4", "/x.mp4"))),
            r"in line 3, /1.mp4 with 'right' is not /x.mp4 with 'right'",
        ),
        (
            lambda it: replace(it, labelled=replace(it.labelled, starts_s=(1.0, None))),
            r"in line 2, /0.mp4 with 'left' is not /0.mp4 from 1.0 to None s with 'left'",
        ),
        (
            lambda it: outcome(says([0, 1])[:, :2], wants([0, 1]), heads=(TAGS,)),
            r"different heads: motion \(softmax\); tags \(sigmoid\)",
        ),
    ],
)
def test_runs_of_different_lists_are_refused(change, complaint: str) -> None:
    a = outcome(says([0, 1]), wants([0, 1]))
    with pytest.raises(InvalidRequestError, match=complaint):
        compare(a, change(a), names=("a", "b"))


def test_multi_label_runs_are_compared_by_average_precision() -> None:
    random = np.random.default_rng(3)
    wanted = [tuple(tuple(np.flatnonzero(row).tolist()) for row in random.random((80, 2)) < 0.4)]
    has = np.array([[index in row for index in range(2)] for row in wanted[0]])
    noise = random.normal(size=(80, 2))
    a = outcome((has + 2 * noise).astype(np.float32), wanted, heads=(TAGS,))
    b = outcome((has + noise).astype(np.float32), wanted, heads=(TAGS,))
    found = compare(a, b, names=("a", "b"))
    (head,) = found.heads
    assert head.kind == "multi_label"
    assert head.difference.value == pytest.approx(head.map_b.value - head.map_a.value)
    assert 0 < head.difference.low < head.difference.high
    assert [change.name for change in head.changes if change.b > change.a]
    assert "mAP" in "\n".join(describe_comparison(found))
    (alone,) = measure(a).heads
    assert alone.kind == "multi_label"
    assert alone.all_videos == head.map_a
    assert next(line for line in describe_evaluation(measure(a)) if "mAP" in line)


def test_heads_and_their_product() -> None:
    random = np.random.default_rng(4)
    wanted = [tuple((int(i),) for i in random.integers(size, size=40)) for size in (3, 2)]
    logits = [random.normal(size=(40, 5)).astype(np.float32) for _ in range(2)]
    a, b = (outcome(it, wanted, heads=(NOUN, VERB), product="action", failed=(3,)) for it in logits)
    evaluation = measure(a)
    assert evaluation.product is not None
    assert evaluation.product.num_classes == 6
    assert {one.name for one in evaluation.product.classes} <= {
        f"{noun}, {verb}" for noun in NOUN.names for verb in VERB.names
    }
    tops = [one.all_videos.top1.value for one in (*evaluation.heads, evaluation.product)]  # type: ignore[union-attr]
    assert tops[2] <= min(tops[:2])
    assert list(summarise(evaluation)["heads"]) == ["noun", "verb"]
    lines = list(describe_evaluation(evaluation))
    assert any(line.startswith("  top-1 action") for line in lines)
    assert lines[-1] == "  failed 1 of 40, counted as wrong"
    found = compare(a, b, names=("a", "b"))
    assert found.product is not None
    assert found.product.name == "action"
    assert found.product.top1_a.value == tops[2]
    assert [head.name for head in found.heads] == ["noun", "verb"]
