"""Views to one answer: NumPy and graph alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tubelet.averaging import average_views, probabilities, product, view_rows
from tubelet.export.graphs import AverageUnits, AverageViews
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.manifest import Aggregation, Head

SOFTMAX, SIGMOID = (
    Head(name=kind, num_classes=count, activation=kind, labels_sha256="0")  # type: ignore[arg-type]
    for kind, count in (("softmax", 3), ("sigmoid", 2))
)
HEADS = (SOFTMAX, SIGMOID)
TWO_SOFTMAX = (SOFTMAX, replace(SOFTMAX, name="other", num_classes=2))
AGGREGATIONS: tuple[Aggregation, ...] = ("mean_logits", "sum_logits", "mean_probabilities")
VIEWS = arrays(np.float32, st.tuples(st.integers(1, 6), st.just(5)), elements=st.floats(-60, 60, width=32))


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def test_logits_are_averaged_before_the_activation() -> None:
    views = np.array([[4.0, 0.0], [-1.0, 2.0]], np.float32)
    head = (replace(SOFTMAX, num_classes=2),)
    logits = average_views(views, "mean_logits", head)
    np.testing.assert_allclose(logits, [1.5, 1.0])
    np.testing.assert_allclose(probabilities(logits, head), softmax(np.array([1.5, 1.0])), rtol=1e-6)
    np.testing.assert_allclose(average_views(views, "sum_logits", head), [3.0, 2.0])
    assert logits.dtype == np.float32


@settings(deadline=None)
@given(VIEWS)
def test_mean_of_probabilities_is_what_the_logits_give(views: np.ndarray) -> None:
    exact = views.astype(np.float64)
    wanted = np.concatenate([softmax(exact[:, :3]).mean(axis=0), (1 / (1 + np.exp(-exact[:, 3:]))).mean(axis=0)])
    logits = average_views(exact, "mean_probabilities", HEADS)
    np.testing.assert_allclose(probabilities(logits, HEADS), wanted, rtol=1e-9, atol=1e-300)
    single = average_views(exact[:1], "mean_probabilities", HEADS)
    np.testing.assert_allclose(single, exact[0], rtol=0, atol=1e-9)


@st.composite
def views_in_two_orders(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """1 to 64 views of 5 classes, some of them perhaps alike, and a permutation of them."""
    dtype, elements = draw(
        st.sampled_from([(np.float32, st.floats(-60, 60, width=32)), (np.float64, st.floats(-60, 60))])
    )
    views = draw(arrays(dtype, st.tuples(st.integers(1, 64), st.just(5)), elements=elements))
    # Full mantissas in every bit, of which sums are never exact.
    if draw(st.booleans()):
        views = views + np.random.default_rng(draw(st.integers(0, 999))).normal(0, 9, views.shape).astype(dtype)
    return views, np.array(draw(st.permutations(range(len(views)))))


@settings(deadline=None, max_examples=300)
@given(views_in_two_orders(), st.sampled_from(AGGREGATIONS), st.sampled_from([HEADS, TWO_SOFTMAX]))
def test_the_order_of_the_views_changes_no_bit(drawn, aggregation: Aggregation, heads: tuple[Head, ...]) -> None:
    views, order = drawn
    one, other = (average_views(rows, aggregation, heads) for rows in (views, views[order]))
    assert one.dtype == views.dtype
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("num_views", "num_classes"), [(2, 1), (12, 400), (30, 400), (64, 1000)])
def test_no_order_of_the_views_of_real_protocols_changes_a_bit(aggregation, activation, num_views, num_classes) -> None:
    rng = np.random.default_rng(num_views)
    views = rng.normal(0, 3, (num_views, num_classes)).astype(np.float32)
    heads = (Head(name="all", num_classes=num_classes, activation=activation, labels_sha256="0"),)
    found = average_views(views, aggregation, heads)
    crops_first = np.arange(num_views).reshape(-1, 2).T.ravel()
    orders = [crops_first, np.arange(num_views)[::-1], *(rng.permutation(num_views) for _ in range(50))]
    assert {average_views(views[order], aggregation, heads).tobytes() for order in orders} == {found.tobytes()}
    # Read column by column in memory, or from the middle of something larger, they are the same views.
    assert average_views(np.asfortranarray(views), aggregation, heads).tobytes() == found.tobytes()
    wide = np.repeat(views, 2, axis=1)[:, ::2]
    assert average_views(wide, aggregation, heads).tobytes() == found.tobytes()


def test_plain_sums_in_another_order_would_show() -> None:
    """What the two tests above forbid does happen."""
    views = np.random.default_rng(0).normal(0, 3, (30, 400)).astype(np.float32)
    assert views.mean(axis=0).tobytes() != views[::-1].mean(axis=0).tobytes()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("num_views", [1, 12, 30, 64])
def test_the_answer_of_many_views_keeps_the_budget(make_contract, aggregation, activation, num_views) -> None:
    """Against the graph, and against both in float64, in an order in which the graph has not seen them."""
    views = np.random.default_rng(num_views).normal(0, 3, (num_views, 400)).astype(np.float32)
    heads = (Head(name="all", num_classes=400, activation=activation, labels_sha256="0"),)
    found = average_views(views, aggregation, heads)
    graph = AverageViews(replace(make_contract(), aggregation=aggregation, heads=heads))
    budget = BUDGETS["engine-fp32/torch-fp32"]
    for logits in (graph(torch.from_numpy(views))[0].numpy(), average_views(views.astype(float), aggregation, heads)):
        assert np.abs(found - logits).max() <= budget.max_abs_logit
        assert found @ logits >= budget.min_cosine * np.linalg.norm(found) * np.linalg.norm(logits)
        assert found.argmax() == logits.argmax()


def test_each_head_has_its_own_activation_and_nothing_overflows() -> None:
    shares = probabilities(np.array([1000.0, 1000.0, 0.0, 0.0, -3000.0], np.float32), HEADS)
    np.testing.assert_allclose(shares, [0.5, 0.5, 0.0, 0.5, 0.0], atol=1e-7)


def test_product_is_of_every_pair_the_last_head_fastest() -> None:
    nouns, verbs = np.array([0.75, 0.25]), np.array([0.5, 0.3, 0.2])
    heads = (replace(SOFTMAX, num_classes=2), SOFTMAX)
    found = product(np.concatenate([nouns, verbs]), heads)
    assert found.shape == (6,)
    assert found[1 * 3 + 2] == pytest.approx(0.25 * 0.2)


def test_rows_of_a_view_are_those_of_its_crop() -> None:
    clip_units = np.array([[0, 2], [1, 2]], np.int32)
    assert view_rows(clip_units, 3).tolist() == [[0, 6], [1, 7], [2, 8], [3, 6], [4, 7], [5, 8]]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("heads", [HEADS, TWO_SOFTMAX])
def test_graph_and_numpy_say_the_same(make_contract, aggregation: str, heads: tuple[Head, ...]) -> None:
    both_softmax = heads[1].activation == "softmax"
    contract = replace(make_contract(), aggregation=aggregation, heads=heads, product="both" if both_softmax else None)
    unit_logits = np.random.default_rng(0).normal(0, 5, (6, 5)).astype(np.float32)
    clip_units, num_crops = np.array([[1], [1], [0]], np.int32), 3
    views = unit_logits[view_rows(clip_units, num_crops)[:, 0]]
    crops = torch.zeros(num_crops, 2)
    found = AverageUnits(contract)(torch.from_numpy(unit_logits), torch.from_numpy(clip_units), crops)
    np.testing.assert_array_equal(found[-1].numpy(), views)
    for one, other in zip(found[:-1], AverageViews(contract)(torch.from_numpy(views)), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    logits = average_views(views, contract.aggregation, heads)
    shares = probabilities(logits, heads)
    for tensor, array in zip(found, (logits, shares), strict=False):
        np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-5, atol=1e-6)
    if both_softmax:
        np.testing.assert_allclose(found[2].numpy(), product(shares, heads), rtol=1e-5, atol=1e-7)
