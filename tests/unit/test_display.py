"""How results look on a terminal (a real pseudo-terminal here) and elsewhere."""

from __future__ import annotations

import io
import os
import pty
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_triton import REPORT, contract, response
from tritonclient.grpc import InferResult

from tubelet.clients.display import (
    BAR_CELLS,
    bar,
    describe_time,
    printable,
    show_classification,
)
from tubelet.clients.results import Classification, read_classification
from tubelet.spec.tensors import answer_names

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def classification(**report: object) -> Classification:
    answer = InferResult(response([0.0, 0.0, 2.0, 1.0], report=REPORT | report))
    return read_classification(answer, contract=contract(), asked=answer_names(contract()), top=4, round_trip_ms=12.0)


def plain(show: Callable[[IO[str]], None]) -> str:
    file = io.StringIO()
    show(file)
    return file.getvalue()


@contextmanager
def terminal() -> Iterator[tuple[IO[str], Callable[[], str]]]:
    """A pseudo-terminal: the end that programs write to, and what had arrived at the other when it was closed."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as file, os.fdopen(master, "rb", buffering=0) as screen:

        def seen() -> str:
            file.close()
            chunks = []
            # Linux says EIO, not the end of the file, when the other end is closed and all is read.
            with suppress(OSError):
                while chunk := screen.read(1 << 16):
                    chunks.append(chunk)
            return b"".join(chunks).decode()

        yield file, seen


def test_without_a_terminal_there_are_plain_lines() -> None:
    text = plain(lambda file: show_classification("a.mp4", classification(), file=file))
    assert text.splitlines() == [
        "a.mp4: demo 1x1, 1 view, 12 frames decoded",
        "  0.6103  up: the sky",
        "  0.2245  down",
        "  0.0826  left",
        "  0.0826  right",
        "  decode 3.5 · resize 0.5 · units 1.0 · encoder 4.0 · average 0.2 · network 2.8 = 12.0 ms",
    ]


def test_on_a_terminal_there_are_bars_and_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with terminal() as (file, seen):
        show_classification("a.mp4", classification(), file=file)
        text = seen()
    assert ANSI.search(text)
    lines = [line.rstrip() for line in ANSI.sub("", text).splitlines()]
    assert lines[0] == "a.mp4  demo 1x1, 1 view, 12 frames decoded"
    assert lines[1].split() == ["61.0", "%", bar(0.6103).strip(), "up:", "the", "sky"]
    assert lines[-1].endswith("= 12.0 ms")
    assert len(lines) == 6


def test_warnings_are_shown() -> None:
    text = plain(lambda file: show_classification("a", classification(warnings=["it breaks off"]), file=file))
    assert "  warning: it breaks off\n" in text


def test_a_name_cannot_play_with_the_terminal() -> None:
    text = plain(lambda file: show_classification("[red]\x1b[2J\udcff:smile:", classification(), file=file))
    assert text.startswith("[red]\\x1b[2J\\udcff:smile:: demo")


@given(st.text())
def test_printable_text_is_printable_and_honest_text_is_kept(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")
    if text.isprintable():
        assert shown == text


@given(st.floats(-1, 2))
def test_a_bar_is_as_long_as_its_share(share: float) -> None:
    cells = bar(share)
    full = cells.count("█")
    assert len(cells) == BAR_CELLS
    assert cells.rstrip() == cells[: full + 1].rstrip()
    assert abs(full - BAR_CELLS * min(max(share, 0), 1)) <= 1


def test_the_time_line_names_each_step_once() -> None:
    found = classification()
    line = describe_time(found.report, network_ms=found.network_ms, round_trip_ms=found.round_trip_ms)
    assert re.findall(r"[a-z]+(?= [0-9])", line) == ["decode", "resize", "units", "encoder", "average", "network"]
