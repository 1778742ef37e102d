"""Evaluating a labelled list, over a real connection to a server that answers as the list says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from scripted_triton import ScriptedTriton, ensemble, running

from tubelet.evaluation.formats import read_list
from tubelet.evaluation.measure import row_answers
from tubelet.evaluation.outcome import LIST_FILE, SCORES, load_outcome
from tubelet.evaluation.result import Evaluation, MultiLabelResult, SingleLabelResult
from tubelet.evaluation.run import EVALUATION_FILE, evaluate, read_names
from tubelet.preprocess.canary import canary_video
from tubelet.spec.errors import InvalidRequestError, UnavailableError

LEFT, BROKEN = [3, 1, 0, 0], "in ensemble 'demo', truncated: it ends"


@pytest.fixture
def triton() -> Iterator[ScriptedTriton]:
    with running(ScriptedTriton()) as triton:
        yield triton


def write_list(folder: Path, rows: Sequence[tuple[object, str]]) -> Path:
    """Writes videos, which are the logits that the server shall answer (or its error), and their list."""
    lines = ["video,label"]
    for number, (said, label) in enumerate(rows):
        # Different bytes for every row: equal videos are asked for once.
        (folder / f"{number}.mp4").write_text(json.dumps(said) + " " * number)
        lines.append(f"{number}.mp4,{label}")
    path = folder / "list.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def score(triton: ScriptedTriton, path: Path, out: Path, **wishes: object) -> Evaluation:
    return evaluate(read_list(path), out, urls=[triton.url], **{"concurrency": 3, **wishes})  # type: ignore[arg-type]


def only_head(found: Evaluation) -> SingleLabelResult:
    (head,) = found.heads
    assert isinstance(head, SingleLabelResult)
    return head


def asked(triton: ScriptedTriton) -> int:
    """Videos that were sent, the canary not counted."""
    return sum(bytes(request.raw_input_contents[0][4:]) != canary_video() for request in triton.requests)


def test_right_answers_are_counted_and_failures_are_wrong(triton: ScriptedTriton, tmp_path: Path) -> None:
    rows = [
        (LEFT, "left"),
        (LEFT, "0"),
        (LEFT, "right"),
        ([0, 1, 9, 3], "up: the sky"),
        (BROKEN, "left"),
        ([3, 3, 0, 0], "right"),
    ]
    out = tmp_path / "out"
    path = write_list(tmp_path, rows)
    found = score(triton, path, out)
    accuracy = only_head(found).all_videos
    assert (found.num_videos, found.num_answered, found.protocol) == (6, 5, "1x1")
    assert (accuracy.top1.value, accuracy.top5.value) == (3 / 6, 5 / 6)
    assert found.failures_by_code == {"truncated": 1}
    assert [(it.line, it.code, it.message) for it in found.failures] == [(6, "truncated", "it ends")]
    assert (found.views, found.server_ms) == (1, 9.25)
    assert Evaluation.load(out / EVALUATION_FILE) == found
    answers = list(row_answers(load_outcome(out)))
    assert [answer["line"] for answer in answers] == [2, 3, 4, 5, 6, 7]
    assert [answer["heads"]["motion"]["rank"] for answer in answers] == [0, 0, 1, 0, None, 1]  # type: ignore[index]
    assert [answer["heads"]["motion"]["found"] for answer in answers[3:5]] == ["up: the sky", None]  # type: ignore[index]
    assert answers[4]["error"] == {"code": "truncated", "message": "it ends"}


def test_a_row_whose_file_is_absent_fails_alone(triton: ScriptedTriton, tmp_path: Path) -> None:
    path = write_list(tmp_path, [(LEFT, "left"), (LEFT, "left")])
    (tmp_path / "0.mp4").unlink()
    found = score(triton, path, tmp_path / "out", protocol="1x1")
    assert (only_head(found).all_videos.top1.value, found.num_answered) == (0.5, 1)
    assert [it.code for it in found.failures] == ["bad_input"]
    left_out = evaluate(read_list(path, skip_missing=True), tmp_path / "fewer", urls=[triton.url])
    assert (left_out.num_videos, left_out.num_answered, left_out.list_file.num_skipped) == (1, 1, 1)
    assert left_out.list_file.num_rows == 2


def test_labels_are_looked_at_before_a_video_is_sent(triton: ScriptedTriton, tmp_path: Path) -> None:
    path = write_list(tmp_path, [(LEFT, "left"), (LEFT, "sideways")])
    with pytest.raises(InvalidRequestError, match=r"list.csv, line 3: label 'sideways'"):
        score(triton, path, tmp_path / "out")
    assert asked(triton) == 0
    assert not (tmp_path / "out").exists()


def test_names_may_be_given_by_hand(triton: ScriptedTriton, tmp_path: Path) -> None:
    path = write_list(tmp_path, [(LEFT, "links"), ([0, 3, 0, 0], "rechts")])
    names = tmp_path / "names.txt"
    names.write_text("links\nrechts\nauf\nab\n")
    found = score(triton, path, tmp_path / "out", names=read_names(names))
    assert only_head(found).all_videos.top1.value == 1
    assert [one.name for one in only_head(found).classes] == ["links", "rechts", "auf", "ab"]
    assert len(triton.requests) == 2
    names.write_text("links\n")
    with pytest.raises(InvalidRequestError, match="4 classes, but 1 names"):
        score(triton, path, tmp_path / "other", names=read_names(names))
    with pytest.raises(InvalidRequestError, match="cannot read the labels"):
        read_names(tmp_path)


def test_what_is_done_is_not_asked_again(triton: ScriptedTriton, tmp_path: Path) -> None:
    path = write_list(tmp_path, [(LEFT, "left"), (LEFT, "right")])
    first = score(triton, path, tmp_path / "out")
    assert asked(triton) == 2
    path.write_text(path.read_text().replace("1.mp4,right", "1.mp4,left"))
    again = score(triton, path, tmp_path / "out")
    assert asked(triton) == 2
    assert only_head(first).all_videos.top1.value == 0.5
    assert only_head(again).all_videos.top1.value == 1


def test_a_video_that_is_listed_twice_is_asked_once_and_counts_twice(triton: ScriptedTriton, tmp_path: Path) -> None:
    path = write_list(tmp_path, [(LEFT, "left"), (LEFT, "left")])
    path.write_text(path.read_text() + "0.mp4,right\n")
    found = score(triton, path, tmp_path / "out")
    assert (found.num_videos, found.num_answered, asked(triton)) == (3, 3, 2)
    assert only_head(found).all_videos.top1.value == pytest.approx(2 / 3)


def test_another_protocol_does_not_go_into_the_same_folder(triton: ScriptedTriton, tmp_path: Path) -> None:
    path = write_list(tmp_path, [(LEFT, "left")])
    score(triton, path, tmp_path / "out")
    before = (tmp_path / "out" / LIST_FILE).read_bytes()
    path.write_text("video,label\n0.mp4,right\n")
    with pytest.raises(InvalidRequestError, match="protocol"):
        score(triton, path, tmp_path / "out", protocol="4x3")
    assert (tmp_path / "out" / LIST_FILE).read_bytes() == before


def test_a_folder_that_is_not_finished_says_so(triton: ScriptedTriton, tmp_path: Path) -> None:
    path = write_list(tmp_path, [(LEFT, "left"), (LEFT, "left")])
    score(triton, path, tmp_path / "out")
    other = write_list(tmp_path, [(LEFT, "left"), (LEFT, "left"), (LEFT, "left")])
    score(triton, other, tmp_path / "more")
    (tmp_path / "more" / LIST_FILE).replace(tmp_path / "out" / LIST_FILE)
    with pytest.raises(InvalidRequestError, match="1 of 3 videos are missing"):
        load_outcome(tmp_path / "out")
    assert (tmp_path / "out" / SCORES / "part-000000.parquet").exists()


def test_logits_that_are_no_numbers_are_failures(triton: ScriptedTriton, tmp_path: Path) -> None:
    found = score(triton, write_list(tmp_path, [(LEFT, "left"), ([float("inf"), 0, 0, 0], "left")]), tmp_path / "out")
    assert found.num_failed == 1


def test_multi_label_models_have_a_mean_average_precision(tmp_path: Path) -> None:
    rows = [([3, 1, -2, 0], "left|right"), ([-1, 2, 0, 0], "right"), ([0, 0, 0, 0], "")]
    with running(ScriptedTriton(models=[ensemble(activation="sigmoid")])) as triton:
        found = score(triton, write_list(tmp_path, rows), tmp_path / "out")
    (head,) = found.heads
    assert isinstance(head, MultiLabelResult)
    assert head.all_videos.value == 1
    assert [one.average_precision for one in head.classes] == [1, 1, None, None]
    answer = next(row_answers(load_outcome(tmp_path / "out")))
    assert answer["heads"] == {"motion": {"wanted": ("left", "right"), "logits": [3, 1]}}


def test_no_server_is_an_error_at_once(tmp_path: Path) -> None:
    path = write_list(tmp_path, [(LEFT, "left")])
    with pytest.raises(UnavailableError, match="no server"):
        evaluate(read_list(path), tmp_path / "out", urls=["127.0.0.1:9"])


def test_an_evaluation_that_is_none_is_refused(tmp_path: Path) -> None:
    for content in ("", "[]", '{"schema_version": 1}'):
        (tmp_path / "evaluation.json").write_text(content)
        with pytest.raises(InvalidRequestError, match="cannot read the evaluation"):
            Evaluation.load(tmp_path / "evaluation.json")
