"""The pages of `tubelet evaluate` and `tubelet loadtest` in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from chromium import PROGRAM, Page, chromium

import loads
from evaluations import class_names, comparison, evaluation, multi_label, single_label
from tubelet.evaluation.report import render_comparison, render_evaluation
from tubelet.loadtest.report import render_comparison as render_compared_loads
from tubelet.loadtest.report import render_report

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium")

PAGES = {
    "8 classes": lambda: render_evaluation(evaluation(single_label("motion", class_names(8)))),
    "400 classes": lambda: render_evaluation(evaluation(single_label("action", class_names(400)))),
    "two heads": lambda: render_evaluation(
        evaluation(
            single_label("noun", class_names(30)),
            single_label("verb", class_names(9)),
            product=single_label("action", class_names(60)),
        )
    ),
    "several labels": lambda: render_evaluation(evaluation(multi_label("things", class_names(157)))),
    "comparison": lambda: render_comparison(comparison(class_names(60))),
    "search for a rate": lambda: render_report(
        loads.result(side=loads.server(gpus=True), promised=loads.KEPT, search=loads.search())
    ),
    "mixed load": lambda: render_report(loads.mixed()),
    "two loads": lambda: render_compared_loads(loads.comparison(loads.figure("p50"), loads.figure("errors", 0.1, 0.3))),
}
PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(19, 23, 28)"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture(scope="module", params=PAGES)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "report.html"
    path.write_text(PAGES[request.param](), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_page_fits_its_window_and_is_content_by_itself(
    browser: Page, file: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    browser.open(file, width=width, scheme=scheme)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.complaints() == []
    assert [address for address in browser.requests() if not address.startswith("data:")] == [file.as_uri()]
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == PAPER[scheme]
    # Pictures take the page's colours, and are there at all.
    assert browser.evaluate("[...document.querySelectorAll('svg')].every(one => one.clientHeight > 50)")
    assert browser.evaluate("document.querySelectorAll('svg').length") > 0
    ink = browser.evaluate("getComputedStyle(document.body).color")
    assert browser.evaluate("getComputedStyle(document.querySelector('svg text')).fill") == ink


def test_cells_are_wide_enough_for_words(browser: Page, file: Path) -> None:
    browser.open(file, width=360, scheme="light")
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    narrow = "[...document.querySelectorAll('tbody th, .name')].filter(one => one.clientWidth < 60).length"
    assert browser.evaluate(narrow) == 0
    outside = "[...document.querySelectorAll('table')].filter(one => !one.closest('.scroll')).length"
    assert browser.evaluate(outside) == 0


def test_a_script_in_a_page_would_not_run(browser: Page, file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "report.html"
    text = file.read_text(encoding="utf-8")
    broken.write_text(text.replace("</body>", "<script>document.title = 'ran'</script></body>"), encoding="utf-8")
    browser.open(broken, width=1280, scheme="light")
    assert browser.evaluate("document.title") != "ran"
    assert any("Content Security Policy" in str(event) for event in browser.complaints())
