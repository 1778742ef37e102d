"""Figures against scikit-learn, against cases computed by hand, and by what must hold of them whatever the answers."""

from __future__ import annotations

import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, balanced_accuracy_score, confusion_matrix, log_loss

from tubelet.averaging import probabilities, product
from tubelet.evaluation.calibration import calibration_of
from tubelet.evaluation.intervals import paired_weights
from tubelet.evaluation.metrics import accuracy_of, single_label_result
from tubelet.evaluation.precision import average_precisions, map_samples, multi_label_result
from tubelet.evaluation.ranking import NO_RANK, Ranking, rank_head, rank_of, rank_product
from tubelet.evaluation.result import SingleLabelResult
from tubelet.evaluation.targets import Classes
from tubelet.spec.manifest import Head

MIB = 1024 * 1024
WILSON_SQUARE = 1.959964**2


def synthetic(seed: int, rows: int, classes: int, *, failing: float = 0.1) -> Ranking:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, classes)).astype(np.float32)
    wanted = random.integers(classes, size=rows)
    logits[np.arange(rows), wanted] += random.normal(1, 1, size=rows).astype(np.float32)
    return rank_head(logits, wanted, random.random(rows) >= failing)


def result(ranking: Ranking, clusters: NDArray[np.int64] | None = None) -> SingleLabelResult:
    rows = len(ranking.wanted)
    return single_label_result(
        "motion",
        ranking,
        class_name="class {}".format,
        every_class=True,
        clusters=np.arange(rows) if clusters is None else clusters,
        videos=[(row + 2, f"/{row}.mp4") for row in range(rows)],
    )


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_ranks_are_places_in_the_stable_order(values: list[int]) -> None:
    logits = np.array([values] * len(values), dtype=np.float32)
    ranks = rank_of(np.arange(len(values)), logits)
    assert [int(np.argsort(-logits[0], kind="stable")[rank]) for rank in ranks] == list(range(len(values)))
    assert ranks[int(logits[0].argmax())] == 0


def test_a_small_list_by_hand() -> None:
    logits = np.array(
        [[2, 1, 0, -1, -2, -3], [0, 1, 2, 3, 4, 5], [1, 1, 1, 1, 1, 1], [5, 0, 0, 0, 0, 0], [9, 9, 9, 9, 9, 9]],
        dtype=np.float32,
    )
    wanted = np.array([0, 0, 1, 1, 2])
    ranking = rank_head(logits, wanted, np.array([True, True, True, True, False]))
    assert ranking.rank.tolist() == [0, 5, 1, 1, NO_RANK]
    assert ranking.found.tolist() == [0, 5, 0, 0, -1]
    found = result(ranking)
    assert found.all_videos.num_videos == 5
    assert (found.all_videos.top1.value, found.all_videos.top5.value) == (1 / 5, 3 / 5)
    assert found.all_videos.mean_class_accuracy.value == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert found.answered is not None
    assert (found.answered.num_videos, found.answered.top1.value, found.answered.top5.value) == (4, 1 / 4, 3 / 4)
    assert found.answered.mean_class_accuracy.value == pytest.approx((1 / 2 + 0) / 2)
    assert found.confusion == ((0, 0, 1), (0, 5, 1), (1, 0, 2))
    by_class = [(one.support, one.top1, one.top5, one.confused_with, one.confused_count) for one in found.classes]
    assert by_class[:4] == [(2, 0.5, 0.5, 5, 1), (2, 0.0, 1.0, 0, 2), (1, 0.0, 0.0, None, 0), (0, None, None, None, 0)]
    assert [(it.line, it.video, it.wanted, it.found, it.rank) for it in found.mistakes] == [
        (5, "/3.mp4", 1, 0, 1),
        (3, "/1.mp4", 0, 5, 5),
        (4, "/2.mp4", 1, 0, 1),
    ]
    assert found.mistakes[2].probability == pytest.approx(1 / 6)


def test_a_list_that_failed_altogether_has_figures_too() -> None:
    found = result(rank_head(np.zeros((3, 4), np.float32), np.array([0, 1, 1]), np.zeros(3, bool)))
    assert (found.all_videos.top1.value, found.all_videos.mean_class_accuracy.value) == (0, 0)
    assert (found.answered, found.calibration, found.confusion, found.mistakes) == (None, None, (), ())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 12))
def test_figures_are_those_of_scikit_learn(seed: int, rows: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, classes)).astype(np.float32)
    wanted = random.integers(classes, size=rows)
    ranking = rank_head(logits, wanted, np.ones(rows, bool))
    found = result(ranking)
    accuracy = found.all_videos
    assert accuracy.top1.value == pytest.approx((logits.argmax(axis=1) == wanted).mean())
    best = np.argsort(-logits, axis=1)[:, :5]
    assert accuracy.top5.value == pytest.approx((best == wanted[:, None]).any(axis=1).mean())
    balanced = np.mean([(ranking.found[wanted == c] == c).mean() for c in np.unique(wanted)])
    assert accuracy.mean_class_accuracy.value == pytest.approx(balanced)
    if classes > 1:
        dense = np.zeros((classes, classes), int)
        for right, named, count in found.confusion:
            dense[right, named] = count
        np.testing.assert_array_equal(dense, confusion_matrix(wanted, ranking.found, labels=range(classes)))
        head = (Head(name="h", num_classes=classes, activation="softmax", labels_sha256="0" * 64),)
        shares = probabilities(logits.astype(np.float64), head)
        theirs = log_loss(wanted, shares, labels=range(classes))
        assert found.calibration is not None
        assert found.calibration.negative_log_likelihood == pytest.approx(theirs)


def test_mean_class_accuracy_is_balanced_accuracy() -> None:
    ranking = synthetic(3, 500, 7, failing=0)
    accuracy = accuracy_of(ranking, np.ones(500, bool), np.arange(500))
    assert accuracy.mean_class_accuracy.value == pytest.approx(balanced_accuracy_score(ranking.wanted, ranking.found))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 80), st.integers(1, 9))
def test_what_holds_of_every_list(seed: int, rows: int, classes: int) -> None:
    found = result(synthetic(seed, rows, classes))
    for accuracy in filter(None, (found.all_videos, found.answered)):
        assert accuracy.top5.value >= accuracy.top1.value
        for one in (accuracy.top1, accuracy.top5, accuracy.mean_class_accuracy):
            assert 0 <= one.low <= one.value <= one.high <= 1
    assert sum(one.support for one in found.classes) == rows
    if found.calibration is not None:
        assert 0 <= found.calibration.expected_calibration_error <= 1
        assert found.answered is not None
        assert sum(it.count for it in found.calibration.bins) == found.answered.num_videos


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_changes_no_figure(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, wanted = random.normal(size=(50, 8)).astype(np.float32), random.integers(8, size=50)
    order = random.permutation(50)
    one, other = (result(rank_head(logits[o], wanted[o], np.ones(50, bool))) for o in (np.arange(50), order))
    assert one.classes == other.classes
    assert one.confusion == other.confusion
    for name in ("top1", "top5", "mean_class_accuracy"):
        assert getattr(one.all_videos, name).value == pytest.approx(getattr(other.all_videos, name).value)


@pytest.mark.parametrize(("sign", "share"), [(1, 1.0), (-1, 0.0)])
def test_the_perfect_and_the_worst_model(sign: int, share: float) -> None:
    wanted = np.arange(40) % 8
    logits = (sign * 9 * (np.arange(8) == wanted[:, None])).astype(np.float32)
    accuracy = result(rank_head(logits, wanted, np.ones(40, bool))).all_videos
    width = WILSON_SQUARE / (40 + WILSON_SQUARE)
    ends = (1 - width, 1) if share else (0, width)
    for one in (accuracy.top1, accuracy.mean_class_accuracy):
        assert (one.low, one.value, one.high) == pytest.approx((ends[0], share, ends[1]))


def test_where_all_are_right_the_interval_rests_on_files_and_on_the_smallest_classes() -> None:
    wanted = np.array([0] * 38 + [1] * 2)
    logits = (9 * (np.arange(3) == wanted[:, None])).astype(np.float32)
    accuracy = result(rank_head(logits, wanted, np.ones(40, bool))).all_videos
    assert accuracy.top1.low == pytest.approx(40 / (40 + WILSON_SQUARE))
    assert accuracy.mean_class_accuracy.low == pytest.approx(7 / (7 + WILSON_SQUARE))  # 4 / (1/38 + 1/2) = 7.6
    segments = result(rank_head(logits, wanted, np.ones(40, bool)), np.arange(40) // 4).all_videos
    assert segments.top1.low == pytest.approx(10 / (10 + WILSON_SQUARE))


def test_calibration_by_hand() -> None:
    logits = np.log(np.array([[0.62, 0.38], [0.62, 0.38], [0.98, 0.02], [0.98, 0.02]])).astype(np.float32)
    found = calibration_of(rank_head(logits, np.array([0, 1, 0, 0]), np.ones(4, bool)))
    assert found is not None
    assert found.expected_calibration_error == pytest.approx((2 * abs(0.62 - 0.5) + 2 * abs(0.98 - 1)) / 4)
    assert found.negative_log_likelihood == pytest.approx(-np.log([0.62, 0.38, 0.98, 0.98]).mean())
    filled = [it for it in found.bins if it.count]
    assert [(it.count, it.accuracy) for it in filled] == [(2, 0.5), (2, 1.0)]
    assert [round(it.low * 15) for it in filled] == [9, 14]
    assert found.bins[0].confidence is None


def test_the_order_of_combinations_is_that_of_their_product() -> None:
    random = np.random.default_rng(8)
    nouns, verbs = (random.normal(size=(60, size)).astype(np.float32) for size in (7, 5))
    wanted = random.integers(7, size=60), random.integers(5, size=60)
    answered = random.random(60) < 0.8
    found = rank_product([nouns, verbs], wanted, answered)
    heads = [
        Head(name=name, num_classes=size, activation="softmax", labels_sha256="0" * 64)
        for name, size in (("noun", 7), ("verb", 5))
    ]
    assert found.num_classes == 35
    for row in range(60):
        if not answered[row]:
            assert (found.found[row], found.rank[row]) == (-1, NO_RANK)
            continue
        shares = product(probabilities(np.concatenate([nouns[row], verbs[row]]).astype(np.float64), heads), heads)
        index = wanted[0][row] * 5 + wanted[1][row]
        assert found.wanted[row] == index
        assert found.rank[row] == (shares > shares[index]).sum()
        assert found.found[row] == shares.argmax()
        assert found.probability[row] == pytest.approx(shares.max())
        assert found.log_likelihood[row] == pytest.approx(np.log(shares[index]))


def test_an_action_is_right_where_verb_and_noun_are() -> None:
    random = np.random.default_rng(9)
    logits = [random.normal(size=(200, size)).astype(np.float32) for size in (4, 3)]
    wanted = [random.integers(4, size=200), random.integers(3, size=200)]
    everything = np.ones(200, bool)
    heads = [rank_head(one, right, everything) for one, right in zip(logits, wanted, strict=True)]
    both = (heads[0].rank == 0) & (heads[1].rank == 0)
    np.testing.assert_array_equal(rank_product(logits, wanted, everything).rank == 0, both)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.booleans())
def test_average_precision_is_that_of_scikit_learn(seed: int, rows: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, 4)).astype(np.float32)
    if ties:
        logits = np.round(logits)
    wanted = random.random((rows, 4)) < 0.3
    wanted[0] = True
    everything = np.ones(rows, bool)
    found = average_precisions(logits, wanted, everything)
    assert found == pytest.approx([average_precision_score(wanted[:, c], logits[:, c]) for c in range(4)])
    weights = np.concatenate(list(paired_weights(np.arange(rows))))
    samples = map_samples(logits, wanted, everything, np.arange(rows))
    for which in (0, 1, 77):
        present = [c for c in range(4) if weights[which][wanted[:, c]].sum()]
        if present:
            theirs = [
                average_precision_score(wanted[:, c], logits[:, c], sample_weight=weights[which]) for c in present
            ]
            assert samples[which] == pytest.approx(np.mean(theirs), rel=1e-5)


def test_labels_of_failed_videos_are_never_found() -> None:
    classes = Classes(head="tags", activation="sigmoid", names=("dog", "ball", "cat"))
    logits = np.array([[3, 1, 0], [2, 2, 0], [1, 3, 0], [99, 99, 0]], dtype=np.float32)
    wanted = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]], dtype=bool)
    answered = np.array([True, True, True, False])
    found = multi_label_result(classes, logits, wanted, answered, np.arange(4))
    dog, ball = (1 + 2 / 3) / 3, (1 / 2) / 2
    assert [one.average_precision for one in found.classes] == [pytest.approx(dog), pytest.approx(ball), None]
    assert [one.support for one in found.classes] == [3, 2, 0]
    assert found.all_videos.value == pytest.approx((dog + ball) / 2)
    assert found.answered is not None
    assert found.answered.value == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert found.all_videos.low <= found.all_videos.value <= found.all_videos.high


@pytest.mark.parametrize(("sign", "low", "high"), [(1, 1.0, 1.0), (-1, 0.0, 0.6)])
def test_the_perfect_and_the_worst_order(sign: int, low: float, high: float) -> None:
    random = np.random.default_rng(2)
    wanted = random.random((60, 3)) < 0.4
    logits = (sign * np.where(wanted, 2.0, -2.0)).astype(np.float32)
    classes = Classes(head="tags", activation="sigmoid", names=("dog", "ball", "cat"))
    found = multi_label_result(classes, logits, wanted, np.ones(60, bool), np.arange(60)).all_videos
    assert low <= found.low <= found.value <= found.high <= high


def test_a_list_as_large_as_that_of_kinetics_stays_small_in_memory() -> None:
    ranking = synthetic(1, 20_000, 400, failing=0.01)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = result(ranking)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < 512 * MIB
    assert len(found.classes) == 400
    assert found.all_videos.num_videos == 20_000
    width = found.all_videos.top1.high - found.all_videos.top1.low
    share = found.all_videos.top1.value
    assert width == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 20_000), rel=0.1)
