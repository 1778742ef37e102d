"""The pages that show evaluations and comparisons."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from evaluations import HOSTILE, class_names, comparison, evaluation, multi_label, single_label
from tubelet.evaluation.figures import (
    Bar,
    draw_changes,
    draw_classes,
    draw_confusion,
    draw_intervals,
    draw_reliability,
)
from tubelet.evaluation.intervals import proportion
from tubelet.evaluation.report import render_comparison, render_evaluation
from tubelet.evaluation.result import Accuracy, Evaluation, SingleLabelResult
from tubelet.evaluation.sections import single_label_section
from tubelet.pages.names import shortened
from webpages import (
    Reader,
    check_colours,
    check_is_alone,
    check_reading_aloud,
    check_references,
    printed_with_other_settings,
)

STYLE = (Path(__file__).parents[2] / "src/tubelet/pages/templates/page.css").read_text(encoding="utf-8")


def whole(*, failed: int = 3, classes: int = 8) -> Evaluation:
    return evaluation(single_label("motion", class_names(classes), failed=failed), failed=failed)


@cache
def kitchen() -> str:
    heads = (single_label("noun", class_names(300), per_class=5), single_label("verb", class_names(97), per_class=5))
    return render_evaluation(evaluation(*heads, product=single_label("action", class_names(1100), per_class=2)))


PAGES: dict[str, Callable[[], str]] = {
    "8 classes": lambda: render_evaluation(whole()),
    "61 classes": lambda: render_evaluation(whole(classes=61)),
    "two heads": kitchen,
    "several labels": lambda: render_evaluation(evaluation(multi_label("things", class_names(157)))),
    "comparison": lambda: render_comparison(comparison(class_names(50))),
}


@pytest.fixture(scope="module", params=PAGES)
def page(request: pytest.FixtureRequest) -> str:
    return PAGES[request.param]()


def test_a_page_asks_nobody_for_anything_and_runs_nothing(page: str) -> None:
    check_is_alone(page)


def test_bytes_of_a_file_name_that_are_no_text_do_not_hinder_the_page() -> None:
    it = whole()
    (head,) = it.heads
    assert isinstance(head, SingleLabelResult)
    odd = dataclasses.replace(head.mistakes[0], video="/a\udcff.mp4")
    page = render_evaluation(dataclasses.replace(it, heads=(dataclasses.replace(head, mistakes=(odd,)),)))
    assert "/a?.mp4" in page.encode("utf-8").decode()


def test_names_are_shown_as_they_are(page: str) -> None:
    assert any(name in Reader(page).text for name in HOSTILE)


def test_a_page_can_be_read_aloud(page: str) -> None:
    check_reading_aloud(page)


def test_ids_are_unique_and_all_that_is_referred_to_is_there(page: str) -> None:
    check_references(page)


def test_colours_are_the_pages_own(page: str) -> None:
    check_colours(page)


def test_equal_evaluations_give_equal_bytes_whatever_matplotlib_is_told(tmp_path: Path) -> None:
    code = (
        "from evaluations import *; from tubelet.evaluation.report import render_evaluation as render; "
        "print(render(evaluation(single_label('motion', class_names(61)))), end='')"
    )
    assert printed_with_other_settings(code, tmp_path) == PAGES["61 classes"]()


def test_the_page_of_400_classes_stays_small() -> None:
    page = render_evaluation(evaluation(single_label("action", class_names(400), per_class=50)))
    assert len(page.encode()) < 400_000
    reader = Reader(page)
    assert len(reader.tables["Classes by number"]) == 401
    assert len(reader.tables["The 20 worst classes"]) == len(reader.tables["The 20 best classes"]) == 21
    assert "The 40 of 400 classes with the most mistakes" in page


def test_every_share_stands_with_its_interval_and_its_number() -> None:
    it = whole()
    reader = Reader(render_evaluation(it))
    (head,) = it.heads
    assert isinstance(head, SingleLabelResult)
    top1 = head.all_videos.top1
    table = reader.tables["Accuracy, 8 classes"]
    assert table[0] == ["", "share", "95 % interval", "videos (n)"]
    assert table[1] == ["top-1", f"{top1.value:.2%}".replace("%", " %"), interval(top1.low, top1.high, digits=2), "96"]
    assert table[4][0] == "top-1, answered videos only"
    assert table[4][3] == "93"
    by_number = reader.tables["Classes by number"][1:]
    assert [row[1] for row in by_number] == class_names(8)
    for row, score in zip(by_number, head.classes, strict=True):
        assert score.top1 is not None
        right, number = (int(part) for part in row[2].split(" / "))
        assert right / number == pytest.approx(score.top1)
        assert row[4] == interval(*wilson(right, number))


def interval(low: float, high: float, *, digits: int = 1) -> str:
    return f"{low * 100:.{digits}f} to {high * 100:.{digits}f} %"


def wilson(count: int, number: int) -> tuple[float, float]:
    z = 1.959964
    middle = (count + z * z / 2) / (number + z * z)
    reach = z / (number + z * z) * (count * (number - count) / number + z * z / 4) ** 0.5
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


@pytest.mark.parametrize(("count", "number"), [(0, 1), (3, 7), (50, 50), (900, 1000)])
def test_the_interval_of_a_share_is_wilsons(count: int, number: int) -> None:
    it = proportion(count, number)
    assert (it.low, it.high) == pytest.approx(wilson(count, number), abs=1e-6)
    assert it.value == count / number


def test_the_head_of_the_page_says_what_was_run() -> None:
    text = " ".join(Reader(render_evaluation(whole())).text.split())
    for part in (
        "4x3, 12 views of each video",
        "sha256:" + "ab" * 32,
        "a list.csv (kinetics), 96 rows",
        "96, of which 93 were answered and 3 failed",
        "2023-11-14 22:13 UTC",
        "123 ms in the server's steps (median of 93)",
        "1 h 12 min, pauses included",
        "tubelet evaluate 'a list.csv' --format kinetics --model motion --protocol 4x3 --out DIR",
        "1,000 resamples, seed 0",
    ):
        assert part in text


def test_confused_pairs_come_by_number() -> None:
    it = whole()
    (head,) = it.heads
    assert isinstance(head, SingleLabelResult)
    rows = Reader(render_evaluation(it)).tables["The most confused pairs"][1:]
    counts = [int(row[2].split(" / ")[0]) for row in rows]
    assert counts == sorted(counts, reverse=True)
    mistakes = [count for wanted, found, count in head.confusion if wanted != found]
    assert sum(counts) == sum(mistakes)


def test_failures_are_listed_up_to_a_number() -> None:
    reader = Reader(render_evaluation(evaluation(single_label("motion", class_names(80), failed=250), failed=250)))
    assert reader.tables["250 of 960 videos, by code"][1:] == [["truncated", "167"], ["not_a_video", "83"]]
    listed = reader.tables["Videos without an answer, in the order of the list"][1:]
    assert len(listed) == 200
    assert listed[0] == ["<i>2</i>.mp4", "2", "truncated", "truncated: <script>alert(2)</script>"]
    assert "the first 200, all are in evaluation.json" in reader.text


def test_an_evaluation_without_an_answer_has_a_page() -> None:
    (head,) = whole().heads
    assert isinstance(head, SingleLabelResult)
    zero = dataclasses.replace(head.all_videos.top1, value=0.0, low=0.0, high=0.0)
    none = dataclasses.replace(
        head,
        all_videos=Accuracy(num_videos=96, top1=zero, top5=zero, mean_class_accuracy=zero),
        answered=None,
        calibration=None,
        confusion=(),
        mistakes=(),
        classes=tuple(
            dataclasses.replace(score, top1=0.0, top5=0.0, confused_with=None, confused_count=0)
            for score in head.classes
        ),
    )
    it = dataclasses.replace(evaluation(none, failed=96), views=None, server_ms=None)
    reader = Reader(render_evaluation(it))
    assert "No video was answered." in reader.text
    assert "Calibration" not in reader.text


def test_classes_without_videos_are_counted_and_not_judged() -> None:
    (head,) = whole().heads
    assert isinstance(head, SingleLabelResult)
    empty = dataclasses.replace(head.classes[-1], support=0, top1=None, top5=None, confused_with=None, confused_count=0)
    it = evaluation(dataclasses.replace(head, classes=(*head.classes[:-1], empty)))
    reader = Reader(render_evaluation(it))
    assert len(reader.tables["Classes by number"]) == 8
    assert "7 of 8 classes occur in the list" in reader.text


def test_two_heads_and_their_product_have_a_part_each() -> None:
    reader = Reader(kitchen())
    for title in ("Accuracy, 300 classes", "Accuracy, 97 classes", "Accuracy, 1,100 classes"):
        assert title in reader.tables
    for name in ("top-1 of noun", "top-5 of verb", "top-1 of action"):
        assert name in reader.text
    assert "Table of the 1,000 classes with the most videos; all are in evaluation.json" in reader.text


def test_several_labels_have_their_mean_average_precision() -> None:
    it = evaluation(multi_label("things", class_names(30)))
    reader = Reader(render_evaluation(it))
    table = reader.tables["Mean average precision, 30 classes"]
    assert table[1][:2] == ["all videos", "200"]
    assert len(reader.tables["Classes by number"]) == 30
    assert "29 of 30 classes occur in the list" in reader.text


def test_a_comparison_shows_both_runs_the_test_and_the_classes() -> None:
    reader = Reader(render_comparison(comparison(class_names(50))))
    assert reader.tables["480 videos by who is right"][1:] == [["A right", "370", "14"], ["A wrong", "26", "70"]]
    assert reader.tables["Top-1 of 480 videos"][1][1] == "80.00 %"
    assert reader.tables["Top-1 of 480 videos"][3] == ["B minus A", "+2.50", "\N{MINUS SIGN}0.40 to +5.00"]
    gains, losses = ([float(row[4].replace("\N{MINUS SIGN}", "-")) for row in reader.tables[f"The largest {what}"][1:]]
                     for what in ("gains", "losses"))  # fmt: skip
    assert gains == sorted(gains, reverse=True)
    assert losses == sorted(losses)
    assert gains[-1] > 0 > losses[-1]
    text = " ".join(reader.text.replace("\N{NO-BREAK SPACE}", " ").split())
    assert "p = 0.0807" in text
    assert "for 90.1 % (87.1 to 92.5 %) of the 477 videos that both answered; Cohen's kappa 0.8800" in text
    assert "Every class fares in B as in A." in text
    assert reader.tables["Both on the same 480 videos"][1][1] == "runs/<a>"


def test_a_comparison_without_a_common_answer_has_a_page() -> None:
    it = comparison(class_names(8))
    head = it.heads[0]
    assert head.kind == "single_label"
    head = dataclasses.replace(head, agreement=None)
    text = Reader(render_comparison(dataclasses.replace(it, heads=(head,), logits=None))).text
    assert "No video was answered by both." in text
    assert "cosine" not in text


@pytest.mark.parametrize(("p", "said"), [(0.0807, "0.0807"), (1.0, "1.0000"), (3e-9, "below 0.0001")])
def test_small_probabilities_are_not_rounded_to_nothing(p: float, said: str) -> None:
    it = comparison(class_names(8))
    head = it.heads[0]
    assert head.kind == "single_label"
    head = dataclasses.replace(head, mcnemar=dataclasses.replace(head.mcnemar, p_value=p))
    assert f"p = {said}" in Reader(render_comparison(dataclasses.replace(it, heads=(head,)))).text


def test_confused_classes_stand_beside_each_other() -> None:
    section = single_label_section(single_label("action", class_names(120), per_class=40))
    assert section.num_in_heat_map == 40
    assert section.num_occurring == 120


def test_pictures_tell_their_numbers_in_words() -> None:
    shares = np.array([0.5, 1.0, 0.0])
    assert 'aria-label="top-1 of each of 3 classes: median 50.0%' in draw_classes(
        shares, 0.5, measure="top-1", name="a"
    )
    assert "1 better in run B, 2 worse" in draw_changes(np.array([0.1, -0.1, -0.2]), measure="top-1", name="a")
    drawn = draw_confusion(np.eye(2, dtype=np.int64), np.array([1, 1]), ["a", "b"], [0, 1], name="a")
    assert "100.0% on the diagonal on average" in drawn
    assert "Probability against share" in draw_reliability([], [0] * 15, name="a")


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_an_interval_without_width_can_be_drawn(share: float) -> None:
    drawn = draw_intervals([Bar(name="top-1", share=share, low=share, high=share)], name="a")
    assert f"top-1 {share:.1%} ({share:.1%} to {share:.1%})" in drawn


def test_names_beside_axes_are_short_and_printable() -> None:
    assert shortened("a\nb\0c") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert len(shortened("x" * 99)) == 22
    assert shortened("$x$") == "$x$"


def luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def schemes() -> Iterator[dict[str, str]]:
    for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL):
        yield dict(re.findall(r"--(\w+): (#\w{6})", block))


def test_letters_can_be_told_from_the_paper_in_both_schemes() -> None:
    found = list(schemes())
    assert len(found) == 2
    for scheme in found:
        for paper in ("paper", "raised"):
            for ink in ("ink", "quiet", "accent", "other"):
                light, dark = sorted((luminance(scheme[ink]), luminance(scheme[paper])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, ink, paper)  # WCAG 2, level AA
