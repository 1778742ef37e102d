"""Scoring a labelled list, over a real connection to a server that answers as the list says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_triton import NAMES, ScriptedTriton, running

from tubelet.clients import VideoClassifier
from tubelet.clients.evaluate import RowResult, evaluate, rank_of, read_rows, resolve_label
from tubelet.spec.errors import InvalidRequestError

BY_NAME = {name: index for index, name in enumerate(NAMES)}


@pytest.fixture
def classifier() -> Iterator[VideoClassifier]:
    with running(ScriptedTriton()) as triton, VideoClassifier(triton.url) as client:
        yield client


def write_list(folder: Path, rows: list[tuple[object, str]]) -> Path:
    """Writes videos, which are the logits that the server shall answer (or its error), and their list."""
    lines = ["video,label"]
    for number, (said, label) in enumerate(rows):
        (folder / f"{number}.mp4").write_text(json.dumps(said))
        lines.append(f"{number}.mp4,{label}")
    path = folder / "list.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_right_answers_are_counted_and_failures_are_wrong(classifier: VideoClassifier, tmp_path: Path) -> None:
    csv = write_list(
        tmp_path,
        [
            ([3, 1, 0, 0], "left"),
            ([3, 1, 0, 0], "0"),
            ([3, 1, 0, 0], "right"),
            ([0, 1, 9, 3], "up: the sky"),
            ("in ensemble 'demo', truncated: it ends", "left"),
            ([3, 1, 0, 0], "sideways"),
            ([3, 3, 0, 0], "right"),
        ],
    )
    seen: list[RowResult] = []
    found = evaluate(classifier, csv, protocol=None, concurrency=3, on_result=seen.append)
    assert (found.num_rows, found.num_top1, found.num_top5) == (7, 3, 5)
    assert (found.top1, found.top5) == (3 / 7, 5 / 7)
    assert [result.row.line for result in seen] == [2, 3, 4, 5, 6, 7, 8]
    assert [result.rank for result in seen] == [0, 0, 1, 0, None, None, 1]
    assert [result.predicted for result in seen[:4]] == ["left", "left", "left", "up: the sky"]
    assert [result.error.code for result in found.failures if result.error] == ["truncated", "bad_input"]
    assert found.protocol == "1x1"
    assert found.to_json()["failed"] == 2
    assert json.loads(json.dumps(seen[4].to_json()))["error"] == {"code": "truncated", "message": "it ends"}


def test_a_row_whose_file_is_absent_fails_alone(classifier: VideoClassifier, tmp_path: Path) -> None:
    csv = write_list(tmp_path, [([1, 0, 0, 0], "left"), ([1, 0, 0, 0], "left")])
    (tmp_path / "0.mp4").unlink()
    found = evaluate(classifier, csv, protocol="1x1", concurrency=1, on_result=lambda _: None)
    assert (found.num_top1, len(found.failures)) == (1, 1)


def test_a_list_may_have_more_columns_a_byte_order_mark_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(b'\xef\xbb\xbflabel,video,seed\r\n"a, b",sub/x.mp4,7\r\n\r\nc,/abs/y.mp4,8\r\n')
    rows = [(row.line, row.video, row.label) for row in read_rows(path)]
    assert rows == [(2, tmp_path / "sub/x.mp4", "a, b"), (4, Path("/abs/y.mp4"), "c")]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "header"),
        (b"file,class\na,b\n", "header"),
        (b"video,label\n", "lists no videos"),
        (b"video,label\na.mp4\n", "line 2"),
        (b"video,label\n,left\n", "line 2"),
        (b"video,label\n\xff,left\n", "cannot read"),
        (b'video,label\n"a"b,left\n', "cannot read"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=complaint):
        read_rows(path)


def test_an_absent_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="cannot read"):
        read_rows(tmp_path / "absent.csv")


def test_a_name_is_preferred_to_an_index() -> None:
    assert resolve_label("1", {"1": 0, "0": 1}, 2) == 0
    assert resolve_label("1", BY_NAME, 4) == 1


@pytest.mark.parametrize("label", ["4", "-1", "Left", "", "1.0", "²"])
def test_a_label_that_the_model_lacks_is_an_error(label: str) -> None:
    with pytest.raises(InvalidRequestError, match="neither"):
        resolve_label(label, BY_NAME, 4)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_ranks_are_places_in_the_stable_order(values: list[int]) -> None:
    logits = np.array(values, dtype=np.float32)
    ranks = [rank_of(index, logits) for index in range(len(values))]
    assert [int(np.argsort(-logits, kind="stable")[rank]) for rank in ranks] == list(range(len(values)))
    assert ranks[int(logits.argmax())] == 0
