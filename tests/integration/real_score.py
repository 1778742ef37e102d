"""`tubelet score` in a process of its own, as its users start it, and archives for it."""

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
from real_server import TUBELET

from tubelet.archive.parts import read_rows

__all__ = ["Scoring", "check_rows", "make_archive", "rows_of"]


class Scoring:
    """A run under way; its events come as objects."""

    def __init__(self, source: Path | str, out: Path, *urls: str, arguments: tuple[str, ...] = ()) -> None:
        servers = [f"--url={url}" for url in urls]
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [TUBELET, "score", source, "--out", out, "--json", *servers, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "no_proxy": "*"},
        )

    def __enter__(self) -> "Scoring":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for file in (self.process.stdout, self.process.stderr):
            if file is not None:
                file.close()

    def wait_for(self, event: str) -> dict[str, Any]:
        """Reads events until ``event`` comes."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        raise AssertionError(f"no {event!r} before the end: {self.events}, {self.end()}")

    def wait_for_words(self, words: str) -> str:
        """Reads what it says to people until a line holds ``words``."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if words in line:
                return line
        raise AssertionError(f"it never said {words!r}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Waits for its end: the exit code, and what it said to people."""
        # Not by communicate(), which would pass over what is in the buffers of these files.
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.events += [json.loads(line) for line in self.process.stdout]
        err = self.process.stderr.read()
        return self.process.wait(), err

    def summary(self) -> dict[str, Any]:
        """Waits for a good end."""
        code, err = self.end()
        assert code == 0, (code, err, self.events)
        assert self.events[-1]["event"] == "summary"
        return self.events[-1]


def make_archive(clips: Path, folder: Path, count: int) -> Path:
    """``count`` videos of different bytes: clips with a box at their end that decoders pass over."""
    folder.mkdir()
    contents = [path.read_bytes() for path in sorted(clips.glob("*.mp4"))]
    for number in range(count):
        box = b"\0\0\0\x0cfree" + number.to_bytes(4, "big")
        (folder / f"{number:05}.mp4").write_bytes(contents[number % len(contents)] + box)
    return folder


def rows_of(out: Path) -> list[dict[str, Any]]:
    """All rows of an output folder."""
    rows: list[dict[str, Any]] = pa.Table.from_batches(read_rows(out)).to_pylist()
    return rows


def check_rows(rows: list[dict[str, Any]], archive: Path) -> None:
    """Every video of a folder is there exactly once, and none has an error."""
    assert Counter(row["uri"] for row in rows) == Counter(str(path) for path in archive.glob("*.mp4"))
    assert Counter(row["error_code"] for row in rows) == {None: len(rows)}
