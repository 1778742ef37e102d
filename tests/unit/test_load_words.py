"""What a load test says on a terminal and to programs."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace

import pytest

from loads import BROKEN, KEPT, comparison, figure, kind, latency, mixed, result, search, server
from tubelet.loadtest.measured import Result, Trial
from tubelet.loadtest.progress import LoadProgress
from tubelet.loadtest.quantities import NOTHING, counted, describe_share, describe_time_ms, number
from tubelet.loadtest.words import describe_comparison, describe_result, summarise


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"), (2003.4, "2,003"), (999.7, "1,000"), (99.96, "100"), (41.25, "41.2"), (9.996, "10.0"),
        (1.5, "1.50"),
        (0.125, "0.125"), (0.04, "0.04"), (0.00217, "0.0022"), (0.1, "0.1"),
        (0.00004, "4e-05"), (-3.14159, "-3.14"), (1234567.0, "1,234,567"),
    ],
)  # fmt: skip
def test_numbers_have_two_or_three_digits(value: float, said: str) -> None:
    assert number(value) == said


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [(0.0, "0 ms"), (0.42, "0.42 ms"), (12.34, "12.3 ms"), (999.4, "999 ms"), (999.6, "1.00 s"), (1250.0, "1.25 s"),
     (3_600_000.0, "3,600 s")],
)  # fmt: skip
def test_times_have_the_unit_that_fits(milliseconds: float, said: str) -> None:
    assert describe_time_ms(milliseconds) == said


def test_no_number_that_is_not_zero_is_shown_as_zero() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        value = 10 ** draw.uniform(-9, 9)
        assert float(number(value).replace(",", "")) == pytest.approx(value, rel=0.06)


def test_shares_and_counts() -> None:
    assert [describe_share(*it) for it in ((0, 7), (1, 800), (7, 7), (0, 0))] == ["0 %", "0.125 %", "100 %", NOTHING]
    assert [counted(1, "process", "processes"), counted(2003, "request")] == ["1 process", "2,003 requests"]


def test_a_kind_has_a_row_of_a_table_whose_columns_stand_below_each_other() -> None:
    head, *rows = describe_result(mixed())[1:6]
    assert head.split() == ["kind", "requests", "answered", "errors", "p50", "p90", "p99", "p99.9", "longest"]
    assert [row.split()[0] for row in rows[:3]] == ["single", "30", "whole"]
    assert len({len(line) for line in (head, *rows[:4])}) == 1
    assert rows[2].split()[2:6] == ["194", "120", "38.1", "%"]


@pytest.mark.parametrize(
    "made",
    [
        mixed(),
        result(*(kind(f"a kind with a long name {place}", answered=300) for place in range(9)), side=server(gpus=True)),
        result(kind("\x1b[31m" + "x" * 300, answered=2, errors={f"code_{place}": 1_000_000 for place in range(20)})),
        result(side=server(), promised=BROKEN * 9, search=search()),
    ],
    ids=["mixed", "many", "long", "search"],
)
def test_no_line_is_wider_than_100_columns(made: Result) -> None:
    assert max(map(len, describe_result(made))) <= 100


def test_names_stay_on_their_line() -> None:
    lines = describe_result(result(kind("a\nb"), kind("c\x1b[2J")))
    assert not any(letter in line for line in lines for letter in "\n\x1b")


def test_every_side_has_its_line() -> None:
    text = "\n".join(describe_result(result(side=server(gpus=True), promised=KEPT, search=search())))
    for part in (
        "41.2 requests a second keep p99 <= 500 ms, errors <= 0.2 %; 43.0 a second break it.",
        "33.3 answers, 33.3 views, 267 units a second; 33.4 requests a second due, for 60.0 s",
        "errors: queue_full 3",
        "server: 3 processes, 1.31 cores busy, memory 570 MiB at first, 579 MiB at last",
        "GPU GPU-0a1b: 42.0 % busy, 2,100 MiB at most",
        "generator: on time, sent ",
        "promise: p99 <= 500 ms: 123 ms, kept",
        "promise: errors <= 0.2 %: 0.15 %, kept",
        "search: 27 trials, the knee at 36.0 requests a second",
    ):
        assert part in text


def test_a_step_shows_the_batches_that_were_formed() -> None:
    (row,) = (line for line in describe_result(result(side=server())) if "motion_encoder" in line)
    assert row.split() == ["motion_encoder", "2,003", "21.3", "ms", "6.00", "ms", "15.0", "ms", "4.50", "8"]


def test_a_server_that_could_not_be_asked_is_said_to() -> None:
    assert "server: could not be asked what it did" in describe_result(result())


def test_what_cannot_be_trusted_comes_first() -> None:
    made = mixed()
    late = replace(made.measurement.generator, is_on_time=False, lag=latency(100, median_ms=300))
    lines = describe_result(
        replace(made, measurement=replace(made.measurement, generator=late, stopped_by="interrupted"))
    )
    assert lines[0].startswith("CAUTION: The test was interrupted after 60.0 s of 60 s")
    assert any(line.startswith("CAUTION: The generator was late") for line in lines[:3])
    assert any(line.startswith("generator: LATE") for line in lines)


def test_without_an_answer_there_are_dashes() -> None:
    lines = describe_result(result(kind(answered=0, errors={"unreachable": 7})))
    assert lines[0] == "Not one of 7 requests was answered."
    assert lines[2].split() == ["clip", "7", "0", "100", "%", *[NOTHING] * 5]


@pytest.mark.parametrize(
    ("limited_by", "highest", "said"),
    [
        ("generator", 41.2, "41.2 requests a second or more keep p99 <= 500 ms; the generator could not make more."),
        ("generator", None, "No rate is known to keep p99 <= 500 ms: the generator could not make the least one."),
        ("interrupted", 41.2, "41.2 requests a second keep p99 <= 500 ms; the search was interrupted before it knew"),
        ("interrupted", None, "The search was interrupted before it knew a rate that keeps p99 <= 500 ms."),
    ],
)
def test_a_search_says_what_ended_it(limited_by: str, highest: float | None, said: str) -> None:
    found = replace(search(highest=highest), limited_by=limited_by)  # type: ignore[arg-type]
    lines = describe_result(result(promised=KEPT[:1], search=found))
    assert lines[0].startswith(said)


def test_a_rate_that_breaks_the_promise_when_it_is_measured_again_is_no_secret() -> None:
    lines = describe_result(result(promised=BROKEN[:1], search=search()))
    assert "Measured once more at that rate, it was broken" in " ".join(" ".join(lines[:2]).split())


def test_the_summary_is_everything_without_the_bulk() -> None:
    made = result(side=server(gpus=True), promised=KEPT, search=search())
    data = json.loads(json.dumps(summarise(made), allow_nan=False))
    text = json.dumps(data)
    assert not any(f'"{name}"' in text for name in ("histogram", "blocks", "series"))
    assert data["is_kept"] is True
    assert data["measurement"]["together"]["latency"]["p99_ms"] == made.measurement.together.latency.p99_ms
    assert data["measurement"]["server"]["steps"][3]["batch_sizes"] == {"1": 500, "8": 500}
    assert data["search"]["highest_rate"] == 41.2
    assert len(data["search"]["trials"]) == 27
    assert data["scenario"]["name"] == "steady"


def test_a_comparison_has_a_table_with_regressions_first() -> None:
    found = comparison(
        figure("p50"),
        figure("p99", 400.0, 600.0, is_changed=True, is_regression=True, low=0.3, high=0.7),
        notes=["The processor differs, " + "very " * 40 + "much."],
    )
    lines = describe_comparison(found)
    assert lines[0] == "B is worse by more than 10 %: p99 of all +50.0 %."
    assert " ".join(lines[2].split()) == "p99 all 400 ms 600 ms +50.0 % +30.0 to +70.0 % regression"
    assert lines[3].split()[0] == "p50"
    assert lines[4].startswith("note: The processor differs")
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("kept", "is_on_time", "verdict"),
    [
        (True, True, "keeps the promise"),
        (False, True, "breaks it"),
        (False, False, "cannot be believed, since the generator was late"),
    ],
)
def test_a_search_says_what_each_rate_did(kept: bool, is_on_time: bool, verdict: str) -> None:
    said = io.StringIO()
    trial = Trial(
        rate=56.6, answered_rate=56.0, p50_ms=49.6, p99_ms=140.0, error_share=0.001, kept=kept, is_on_time=is_on_time
    )
    with LoadProgress(said) as progress:
        progress.trial(trial)
    assert said.getvalue() == f"56.6 a second: p50 50 ms, p99 140 ms, errors 0.10%: {verdict}\n"
