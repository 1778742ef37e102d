"""The pages that show load tests and comparisons of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from loads import (
    BROKEN,
    HOSTILE,
    KEPT,
    comparison,
    figure,
    kind,
    latency,
    measurement,
    mixed,
    result,
    search,
    series,
    server,
)
from tubelet.loadtest.measured import KindFigures, Promised, Result
from tubelet.loadtest.report import render_comparison, render_report
from tubelet.loadtest.scenario import RequestKind, Steps, Synthetic, Trace
from webpages import (
    Reader,
    check_colours,
    check_is_alone,
    check_reading_aloud,
    check_references,
    printed_with_other_settings,
)

VIDEOS = Synthetic(kind="synthetic")


def hostile() -> Result:
    """Names as unkind as a scenario, a server or a machine may give them."""
    made = result(
        kind(HOSTILE, errors={"<b>code</b>": 2}),
        kind('$\\frac{1}{2}$ & "quoted"\n\x1b[31m'),
        kind("x" * 200),
        side=server(gpus=True),
        promised=(Promised(clause="i&amp;name p99 <= 1 ms", found=2.0, kept=False),),
    )
    side = made.measurement.server
    assert side is not None
    side = replace(
        side,
        version=HOSTILE,
        steps=tuple(replace(step, name=f"{HOSTILE}{place}") for place, step in enumerate(side.steps)),
        processes=tuple(replace(one, name=HOSTILE) for one in side.processes),
        gpus=tuple(replace(one, uuid=HOSTILE) for one in side.gpus),
    )
    return replace(
        made,
        scenario=replace(made.scenario, name=HOSTILE, description=HOSTILE, videos={HOSTILE: VIDEOS}),
        command=HOSTILE,
        contracts={HOSTILE: HOSTILE},
        measurement=replace(made.measurement, server=side, warm_up_errors={HOSTILE: 1}),
    )


def unanswered() -> Result:
    made = result(kind(answered=0, errors={"unreachable": 7}), promised=(replace(KEPT[0], found=0.0, kept=False),))
    nothing = replace(series(10), answered=(0,) * 10, p50_ms=(0.0,) * 10, p99_ms=(0.0,) * 10, max_ms=(0.0,) * 10)
    return replace(made, measurement=replace(made.measurement, series=nothing))


def interrupted(after_s: float = 12.25) -> Result:
    made = mixed()
    together = replace(made.measurement.together, cut_off=5)
    return replace(
        made,
        measurement=replace(
            made.measurement, stopped_by="interrupted", duration_s=after_s, series=series(13), together=together
        ),
    )


PAGES: dict[str, Callable[[], str]] = {
    "plain": lambda: render_report(result()),
    "search": lambda: render_report(result(side=server(gpus=True), promised=KEPT, search=search())),
    "mixed": lambda: render_report(mixed()),
    "many kinds": lambda: render_report(result(*(kind(f"kind {place}") for place in range(9)), side=server())),
    "hostile": lambda: render_report(hostile()),
    "unanswered": lambda: render_report(unanswered()),
    "interrupted": lambda: render_report(interrupted()),
    "comparison": lambda: render_comparison(
        comparison(figure("p50"), figure("errors", 0.1, 0.3), name=HOSTILE, notes=[HOSTILE])
    ),
}


@cache
def page_of(name: str) -> str:
    return PAGES[name]()


@pytest.fixture(scope="module", params=PAGES)
def page(request: pytest.FixtureRequest) -> str:
    return page_of(request.param)


def text_of(page: str) -> str:
    return " ".join(Reader(page).text.replace("\N{NO-BREAK SPACE}", " ").split())


def test_a_page_asks_nobody_for_anything_and_runs_nothing(page: str) -> None:
    check_is_alone(page)


def test_a_page_can_be_read_aloud(page: str) -> None:
    check_reading_aloud(page)


def test_ids_are_unique_and_all_that_is_referred_to_is_there(page: str) -> None:
    check_references(page)


def test_colours_are_the_pages_own(page: str) -> None:
    check_colours(page)


def test_rows_of_a_table_are_as_long_as_its_head(page: str) -> None:
    for caption, rows in Reader(page).tables.items():
        assert {len(row) for row in rows} == {len(rows[0])}, caption


@pytest.mark.parametrize("name", ["hostile", "comparison"])
def test_names_are_shown_and_never_read_as_html(name: str) -> None:
    reader = Reader(page_of(name))
    assert HOSTILE in reader.text
    assert any(HOSTILE in cell for rows in reader.tables.values() for row in rows for cell in row)


def test_equal_results_give_equal_bytes_whatever_matplotlib_is_told(tmp_path: Path) -> None:
    code = (
        "from loads import *; from tubelet.loadtest.report import render_report as render; "
        "print(render(result(side=server(gpus=True), promised=KEPT, search=search())), end='')"
    )
    assert printed_with_other_settings(code, tmp_path) == page_of("search")


def test_a_saved_result_gives_the_same_page(tmp_path: Path) -> None:
    it = result(side=server(), promised=KEPT, search=search())
    it.save(tmp_path / "result.json")
    assert render_report(Result.load(tmp_path / "result.json")) == render_report(it)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (result(promised=KEPT), "The promise was kept: p99 <= 500 ms (found 123 ms), errors <= 0.2 % (found 0.15 %)."),
        (result(promised=BROKEN), "The promise was broken: p99 <= 500 ms (found 1,812 ms)."),
        (result(), "2,000 of 2,003 requests were answered; nothing was promised."),
        (unanswered(), "Not one of 7 requests was answered."),
        (
            result(promised=KEPT, search=search()),
            "41.2 requests a second keep p99 <= 500 ms, errors <= 0.2 %; 43.0 a second break it.",
        ),
        (
            result(promised=KEPT, search=replace(search(broken=None), limited_by="range")),
            "41.2 requests a second, the most that the scenario tries, keep p99 <= 500 ms, errors <= 0.2 %.",
        ),
        (
            result(promised=BROKEN[:1], search=search(highest=None, broken=5.0)),
            "No rate that the scenario tries keeps p99 <= 500 ms; even 5.00 a second breaks it.",
        ),
    ],
)
def test_the_verdict_comes_before_all_figures(made: Result, said: str) -> None:
    page = render_report(made)
    assert said in text_of(page)
    assert text_of(page).index(said) < text_of(page).index("answers a second")


def test_figures_that_cannot_be_trusted_are_marked_above_all_others() -> None:
    made = interrupted()
    late = replace(made.measurement.generator, is_on_time=False, lag=latency(300, median_ms=250))
    page = render_report(replace(made, measurement=replace(made.measurement, generator=late)))
    marked = [attributes for tag, attributes in Reader(page).elements if attributes.get("class") == "marked"]
    assert len(marked) == 2
    text = text_of(page)
    for said in (
        "The test was interrupted after 12.2 s of 60 s: its figures cannot be trusted. 5 requests under way are in",
        "The generator was late: it sent one request in a hundred",
    ):
        assert said in text
        assert text.index(said) < text.index("answers a second")
    assert "It was late: see above." in text


def test_a_test_that_can_be_trusted_has_no_marked_sentence() -> None:
    assert "Caution" not in Reader(page_of("search")).text
    assert "It was on time" in Reader(page_of("search")).text


def test_an_interruption_before_the_measured_time_has_a_page() -> None:
    nothing = kind(answered=0)
    made = result(nothing)
    empty = replace(measurement(nothing), duration_s=0.0, stopped_by="interrupted", rate=0.0, series=series(1))
    text = text_of(render_report(replace(made, measurement=empty)))
    assert "No request was due in the measured time." in text
    assert "The test ended before there was anything to draw." in text


def test_a_table_has_a_row_for_each_kind_and_one_for_all() -> None:
    reader = Reader(render_report(mixed()))
    table = reader.tables["Requests by kind"]
    assert table[0] == ["kind", "requests", "answered", "errors", "p50", "p90", "p99", "p99.9", "longest"]
    assert [row[:4] for row in table[1:]] == [
        ["single view", "2,000", "2,000", "0 %"],
        ["30 views", "300", "300", "0 %"],
        ["whole video", "194", "120", "38.1 %"],
        ["all", "2,494", "2,420", "2.97 %"],
    ]
    assert re.fullmatch(r"2\d\.\d ms", table[1][4])
    assert re.fullmatch(r"\d\.\d\d s", table[3][6])
    assert reader.tables["Errors by kind and code"][1:3] == [
        ["whole video", "deadline_exceeded", "14", "7.22 %"],
        ["whole video", "queue_full", "60", "30.9 %"],
    ]


def test_figures_that_do_not_exist_are_dashes_and_not_zeros() -> None:
    table = Reader(render_report(unanswered())).tables["Requests by kind"]
    assert table[1] == ["clip", "7", "0", "100 %", *["\N{EN DASH}"] * 5]


def test_a_distribution_has_a_line_for_each_of_few_kinds_and_one_for_many() -> None:
    def drawn(page: str) -> str:
        (svg,) = (svg for svg in Reader(page).all("svg") if svg["aria-label"].startswith("Latency by percentile"))
        return svg["aria-label"]

    assert all(f"{name}: half within" in drawn(page_of("mixed")) for name in ("single view", "30 views", "whole video"))
    assert "all: half within" in drawn(page_of("many kinds"))
    assert "kind 3" not in drawn(page_of("many kinds"))
    assert "No request was answered." in text_of(page_of("unanswered"))


def test_lines_are_told_apart_without_colours() -> None:
    page = render_report(result(*(kind(f"kind {place}") for place in range(5))))
    picture = page[page.index("Latency by percentile") : page.index("</svg>")]
    paths = re.findall(r'style="([^"]*stroke-width: 1\.6[^"]*)"', picture)
    dashes = [re.search(r"stroke-dasharray: ([^;]*)", style) for style in paths]
    assert len({found.group(1) if found else "" for found in dashes}) == 5


def test_a_stall_is_told_in_words_too() -> None:
    reader = Reader(page_of("mixed"))
    (svg,) = (svg for svg in reader.all("svg") if svg["aria-label"].startswith("Over time"))
    assert "3 s at a stretch without an answer to any of those in flight" in svg["aria-label"]
    slowest = reader.tables["The slowest moments, 1 s each"]
    assert slowest[1][0] == "30"
    assert slowest[1][3] == "0"


def test_hours_are_drawn_with_few_points() -> None:
    made = result(side=server(samples=20_000))
    day = replace(made.measurement, series=series(3600), duration_s=3600.0)
    page = render_report(replace(made, measurement=day))
    assert "Each step of a line is 12 s" in text_of(page)
    assert len(page) < 400_000


def test_a_search_shows_its_curve_and_all_trials() -> None:
    reader = Reader(page_of("search"))
    curve = reader.tables["Medians of the trials of each rate, requests a second"]
    assert len(curve) == 10
    assert curve[7][0] == "43.0"
    assert curve[7][-1] == "broken"
    assert len(reader.tables["Trials"]) == 28
    text = text_of(page_of("search"))
    assert "at 36.0 requests a second, the knee of the curve. All other figures of this page are of 41.2" in text
    assert ">knee<" in page_of("search")


def test_a_search_without_an_answer_has_a_page() -> None:
    found = search(highest=None, broken=5.0)
    silent = tuple(replace(trial, p50_ms=0.0, p99_ms=0.0, kept=False) for trial in found.trials)
    made = replace(unanswered(), search=replace(found, trials=silent, curve=(), knee_rate=None))
    assert "The curve has no knee." in text_of(render_report(made))


def test_the_servers_steps_stand_with_their_batches() -> None:
    reader = Reader(page_of("search"))
    assert reader.tables["Means of a request, by Triton's own statistics"][4] == [
        "motion_encoder", "2,003", "2", "21.3 ms", "6.00 ms", "0.2 ms", "15.0 ms", "0.1 ms",
    ]  # fmt: skip
    assert reader.tables["Batches that were really formed"][4] == ["motion_encoder", "1,001", "4.50", "8"]
    (svg,) = (svg for svg in reader.all("svg") if svg["aria-label"].startswith("Where the time"))
    assert "motion_encoder: queue 6.00 ms, input 0.2 ms, compute 15.0 ms, output 0.1 ms" in svg["aria-label"]
    assert "motion: queue" not in svg["aria-label"]


def test_a_model_without_steps_is_drawn_itself() -> None:
    side = server()
    made = result(side=replace(side, steps=(replace(side.steps[0], batch_sizes={}),)))
    reader = Reader(render_report(made))
    assert any("motion: queue" in svg["aria-label"] for svg in reader.all("svg"))
    assert reader.tables["Batches that were really formed"][1][2:] == ["\N{EN DASH}", "\N{EN DASH}"]


def test_processes_and_cards_have_tables() -> None:
    reader = Reader(page_of("search"))
    (processes,) = (rows for caption, rows in reader.tables.items() if caption.startswith("Processes"))
    assert [row[0] for row in processes[1:]] == ["motion_encoder", "tritonserver", "tubelet serve"]
    assert processes[2] == ["tritonserver", "0.2", "300", "303", "309", "\N{MINUS SIGN}1.50", "101"]
    (cards,) = (rows for caption, rows in reader.tables.items() if caption.startswith("Cards"))
    assert cards[1] == ["GPU-0a1b", "42.0 %", "900", "2,100", "\N{EN DASH}"]


@pytest.mark.parametrize(
    ("side", "said"),
    [
        (None, "It could not be asked what it did: all figures are the generator's."),
        (server(processes=False), "their CPU and memory are not known"),
        (replace(server(), steps=()), "Triton told nothing of its models."),
        (server(restarts=2), "The server was started again 2 times during the test"),
    ],
)
def test_what_is_not_known_of_a_server_is_said(side: object, said: str) -> None:
    assert said in text_of(render_report(result(side=side)))  # type: ignore[arg-type]


def test_notes_say_how_it_was_measured() -> None:
    made = result(kind(errors={"not_sent": 4}))
    short = replace(made.measurement, stopped_by="count", duration_s=31.4, warm_up_errors={"queue_full": 3})
    text = text_of(render_report(replace(made, measurement=short)))
    assert "ended after 31.4 s of 60 s, with the last of 100,000 requests that the scenario allows" in text
    assert "4 requests were due while 2,000 were in flight" in text
    assert "3 requests failed during the warm-up, in no figure here: queue_full 3." in text


def test_the_scenario_is_told_in_words() -> None:
    made = mixed()
    streams = made.scenario.streams
    ramp = Steps(kind="steps", stages=((10.0, 5.0, 20.0), (30.0, 20.0, 20.0)), spacing="constant")
    more = (
        replace(streams[0], name="ramp", arrivals=ramp, requests=(RequestKind(name="a", model="m", videos="short"),)),
        replace(streams[0], name="trace", arrivals=Trace(kind="trace", file="day.txt", speed=2.0), deadline_s=2.5),
    )
    page = render_report(replace(made, scenario=replace(made.scenario, streams=(*streams, *more))))
    rows = {row[0]: row for row in Reader(page).tables["Streams of requests"][1:]}
    assert rows["people"][1] == "open loop, 33 a second, at random (Poisson)"
    assert rows["archive"][1] == "open loop, 12 at once every 5 s"
    assert rows["archive"][-2:] == ["archive", "30 s"]
    assert rows["callers"][1] == "closed loop, 2 callers, each of which waits 0.5 s after an answer"
    assert rows["callers"][5] == "the model's own"
    assert rows["ramp"][1] == "open loop, 10 s from 5 to 20 a second, then 30 s at 20 a second, evenly spaced"
    assert rows["trace"][1] == "open loop, as recorded in day.txt, 2 times as fast"
    assert "32 made for the test: h264, 320 \N{MULTIPLICATION SIGN} 240, 2 s, 25 frames a second" in text_of(page)


def test_the_page_says_where_its_figures_come_from() -> None:
    text = text_of(page_of("search"))
    for part in (
        "tubelet loadtest steady.toml --out .",
        "2023-11-14 22:13 UTC",
        "Some Processor <9000>, 2 cores, 7.80 GiB, Linux 6.1",
        "grpcio 1.2.3, numpy 1.26.4",
        "sha256:" + "ab" * 32,
        "motion: sha256:" + "cd" * 32,
        "2.51.0",
    ):
        assert part in text


def test_a_comparison_puts_regressions_first() -> None:
    found = comparison(
        figure("p50"),
        figure("rate", 33.0, 36.0, is_changed=True, is_worse=False),
        figure("p90", low=None, high=None),
        figure("p99", 400.0, 1600.0, is_changed=True, is_regression=True, low=2.5, high=3.5),
        figure("errors", 0.0, 0.3, low=-0.001, high=0.005),
        notes=["The processor differs."],
    )
    reader = Reader(render_comparison(found))
    rows = reader.tables["Regressions first, then other changes"][1:]
    assert [row[0] for row in rows] == ["p99", "rate", "p50", "errors", "p90"]
    assert rows[0] == ["p99", "all", "400 ms", "1.60 s", "+300 %", "+250 to +350 %", "regression"]
    assert rows[2][-2:] == ["\N{MINUS SIGN}5.00 to +8.00 %", "noise"]
    assert rows[3][2:] == ["0 %", "0.3 %", "+0.3 points", "\N{MINUS SIGN}0.1 to +0.5 points", "noise"]
    assert rows[4][-2:] == ["\N{EN DASH}", "not known"]
    text = text_of(render_comparison(found))
    assert "B is worse by more than 10 %: p99 of all +300 %." in text
    (svg,) = reader.all("svg")
    assert "p99 of all +300 % (+250 to +350 %); rate of all +9.09 %" in svg["aria-label"]
    assert "errors" not in svg["aria-label"]
    assert "The processor differs." in text
    assert reader.tables["Means of a request, by Triton's statistics; not judged"][1] == [
        "motion", "0 ms", "\N{EN DASH}", "37.0 ms", "\N{EN DASH}",
    ]  # fmt: skip


def test_a_comparison_of_other_loads_judges_the_highest_rate_alone() -> None:
    highest = figure("highest rate", 41.2, 30.0, is_changed=True, is_worse=True, is_regression=True)
    found = replace(comparison(figure("p99", is_changed=True)), is_same_load=False, highest_rate=highest)
    rows = Reader(render_comparison(found)).tables["Regressions first, then other changes"][1:]
    assert [(row[0], row[-1]) for row in rows] == [("highest rate", "regression"), ("p99", "not judged")]
    assert rows[0][2:5] == ["41.2 /s", "30.0 /s", "\N{MINUS SIGN}27.2 %"]


def test_a_comparison_whose_noise_is_not_known_has_a_page() -> None:
    assert not Reader(render_comparison(comparison(figure("p50", low=None, high=None)))).all("svg")


def test_a_comparison_without_changes_says_so() -> None:
    text = text_of(render_comparison(comparison(figure("p50"), figure("p99"))))
    assert "No regression above 10 %: nothing changed beyond noise." in text


def test_one_kind_alone_is_not_repeated_as_all() -> None:
    alone: KindFigures = kind("alone")
    assert [row[0] for row in Reader(render_report(result(alone))).tables["Requests by kind"]] == ["kind", "alone"]
