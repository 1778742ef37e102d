"""Samples of a long test in little memory: order, bounds, and that merging loses nothing that it should keep."""

from __future__ import annotations

import pytest

from tubelet.loadtest.samples import Samples


def spans(number: int, *, most: int = 8) -> list[tuple[int, int, int]]:
    """First, last and largest of what each kept sample stands for, of the samples 0, 1, 2 ..."""
    samples: Samples[tuple[int, int, int]] = Samples(lambda a, b: (a[0], b[1], max(a[2], b[2])), most=most)
    for i in range(number):
        samples.add((i, i, 100 if i == 5 else i % 7))
    return samples.all


@pytest.mark.parametrize("number", [0, 1, 7, 8, 9, 16, 17, 100, 1023])
def test_every_sample_is_in_one_kept_sample_in_order(number: int) -> None:
    kept = spans(number)
    assert [i for first, last, _ in kept for i in range(first, last + 1)] == list(range(number))
    assert number <= 5 or max(largest for _, _, largest in kept) == 100


@pytest.mark.parametrize("number", [8, 100, 5000])
def test_there_are_never_more_than_allowed(number: int) -> None:
    assert len(spans(number)) <= 8


def test_kept_samples_stand_for_equal_numbers_but_the_newest() -> None:
    sizes = [last - first + 1 for first, last, _ in spans(1001)]
    assert len(set(sizes[:-1])) == 1
    assert sizes[-1] <= sizes[0]


def test_few_samples_are_kept_as_they_came() -> None:
    assert spans(7) == [(i, i, 100 if i == 5 else i % 7) for i in range(7)]
