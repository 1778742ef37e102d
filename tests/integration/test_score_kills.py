"""``kill -9`` of a scoring process at any moment: the same command finishes, with every video exactly once."""

import random
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from real_score import Scoring, check_rows, make_archive, rows_of
from real_server import Serving

pytestmark = pytest.mark.needs_triton

NUM_VIDEOS = 200
NUM_KILLS = 10
LONGEST_S = 1.5
"""Longest time from the first answer of the server to the kill; a run would take some seconds."""


@pytest.fixture(scope="module")
def archive(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(clips, tmp_path_factory.mktemp("archive") / "videos", NUM_VIDEOS)


def test_killed_at_random_moments_every_video_has_exactly_one_row(
    server: Serving, archive: Path, tmp_path: Path
) -> None:
    out, url = tmp_path / "out", server.ready["grpc"]
    # Small parts, so that kills meet them half written, too.
    arguments = ("--part-rows=10", "--logits", "--concurrency=4")
    moments = random.Random(6)
    done = 0
    for kill in range(NUM_KILLS):
        with Scoring(archive, out, url, arguments=arguments) as run:
            if kill % 3:
                run.wait_for("back")
                wait(moments.uniform(0, LONGEST_S))
            else:  # before anything is asked, while it starts, or where the ledger is opened
                wait(moments.uniform(0.1, 1.0))
            run.signal(signal.SIGKILL)
            assert run.process.wait() in (-signal.SIGKILL, 0)
        done = max(done, known_rows(out))
        assert known_rows(out) == done
    with Scoring(archive, out, url, arguments=arguments) as run:
        summary = run.summary()
    assert summary["done_before"] >= done
    assert summary["done"] == NUM_VIDEOS
    rows = rows_of(out)
    check_rows(rows, archive)
    assert {row["copied_from"] for row in rows} == {None}
    with server.classifier() as classifier:
        for row in random.Random(7).sample(rows, 20):
            found = classifier.classify(row["uri"])
            np.testing.assert_array_equal(np.array(row["logits"], np.float32), found.logits)
            assert [(label["name"], label["probability"]) for label in row["labels"]] == [
                (label.name, label.probability) for label in found.labels
            ]


def wait(seconds: float) -> None:
    """The random part of a test: when to kill."""
    threading.Event().wait(seconds)


def known_rows(out: Path) -> int:
    """Rows of the parts that stand."""
    return len(rows_of(out)) if list(out.glob("part-*.parquet")) else 0
