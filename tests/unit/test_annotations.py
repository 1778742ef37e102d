"""Labelled lists of every format, as they lie on disks, and what their labels mean to a model."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest

from tubelet.cli.evaluating import evaluate as evaluate_command
from tubelet.evaluation.annotations import AnnotatedList
from tubelet.evaluation.folders import VideoFolder
from tubelet.evaluation.formats import FORMATS, detect_format, read_list
from tubelet.evaluation.labelled import LabelledList
from tubelet.evaluation.targets import Classes, classes_of, resolve_label, targets_of
from tubelet.spec.errors import InvalidRequestError
from tubelet.spec.manifest import Head

MOTION = Classes(head="motion", activation="softmax", names=("left", "right", "up: the sky", "a, b"))
NOUN = Classes(head="noun", activation="softmax", names=("tap", "spoon", "plate"))
VERB = Classes(head="verb", activation="softmax", names=("take", "put"))
TAGS = Classes(head="tags", activation="sigmoid", names=("indoors", "dog", "ball"))
EK100_HEADER = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,narration,verb_class,noun_class"


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"video")


def write(folder: Path, content: str | bytes, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def addresses(listed: AnnotatedList, folder: Path) -> list[str]:
    return [str(Path(row.item.uri).relative_to(folder)) for row in listed.rows]


def test_a_list_may_have_more_columns_a_byte_order_mark_quotes_and_blank_lines(tmp_path: Path) -> None:
    fill(tmp_path, "sub/x.mp4", "y.mp4")
    rows = [
        "label,video,seed,start_s,end_s",
        '"a, b", sub/x.mp4 ,7,,',
        "",
        ",,,,",
        f"left,{tmp_path}/y.mp4,8,0.5,2",
        "",
    ]
    content = "\ufeff" + "\r\n".join(rows)
    listed = read_list(write(tmp_path, content))
    assert listed.format == "csv"
    assert [(row.line, row.labels) for row in listed.rows] == [(2, ("a, b",)), (5, ("left",))]
    assert addresses(listed, tmp_path) == ["sub/x.mp4", "y.mp4"]
    assert [(item.start_s, item.end_s) for item in listed.items] == [(None, None), (0.5, 2.0)]
    assert targets_of(listed, [MOTION]) == (((3,), (0,)),)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no list of a known format"),
        (b"file,class\na,b\n", "no list of a known format"),
        (b"video\na.mp4\n", "header"),
        (b"video,label\n", "lists no videos"),
        (b"video,label\na.mp4\n", "line 2: 2 cells expected"),
        (b"video,label\n,left\n", "line 2: a video is needed"),
        (b"video,label\n\xff,left\n", "cannot read"),
        (b'video,label\n"a"b,left\n', "line 2: no CSV"),
        (b"video,label,label\na,left,left\n", "twice"),
        (b"video,label,start_s\na.mp4,left,soon\n", "line 2: start_s must be a number, got 'soon'"),
        (b"video,label,end_s\na.mp4,left,inf\n", "line 2: end_s must be a number"),
        (b"video,label,start_s,end_s\na.mp4,left,7,2.5\n", "line 2: its part must end after it starts, got 7 to 2.5"),
        (
            b"label,youtube_id,time_start,time_end,split\nleft,#NAME?,0,10,val\n",
            "line 2: youtube_id '#NAME\\?' is none; a spreadsheet writes",
        ),
        (b"video,label\na\0.mp4,left\n", "null byte"),
        (b"video,label\na.mp4,left\n", "none of the 1 videos"),
        (b"a.mp4 1\nb.mp4 two\n", "line 2: expected 'path index'"),
        (b"label,youtube_id,time_start,time_end\nleft,abc,0.5,10\n", "line 2: time_start must be whole seconds"),
        (b"youtube_id,time_start,time_end,split\nabc,0,10,test\n", "lacks the column label"),
        (EK100_HEADER.encode() + b"\nP01_0,P01,P01_1,1.5,00:02,x,0,0\n", "line 2: start_timestamp must be hh:mm:ss"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint) as caught:
        read_list(write(tmp_path, content))
    assert caught.value.code == "bad_input"


def test_an_absent_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="cannot read"):
        read_list(tmp_path / "absent.csv")


@pytest.mark.parametrize("content", ["{", '{"id": 1}', "[3]", '[{"id": "1"}]', '[{"template": "x", "id": 1.5}]'])
def test_json_that_is_no_annotation_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"not JSON|a list of videos|needs an id"):
        read_list(write(tmp_path, content, "validation.json"))


def test_kinetics_videos_are_found_in_both_layouts(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    fill(
        videos,
        "-abc_DEF-12_000003_000013.mp4",
        "riding a bike/xyz_000120_000130.mkv",
        "dancing_macarena/q_000000_000010.mp4",
    )
    content = (
        "label,youtube_id,time_start,time_end,split,is_cc\r\n"
        '"testifying",-abc_DEF-12,3,13,val,0\r\n'
        "riding a bike,xyz,120.0,130.0,val,0\r\n"
        "dancing macarena,q,0,10,val,0\r\n"
        "abseiling,gone,7,17,val,1\r\n"
    )
    path = write(tmp_path, content, "kinetics_val.csv")
    listed = read_list(path, videos=str(videos))
    assert listed.format == "kinetics"
    assert addresses(listed, videos) == [
        "-abc_DEF-12_000003_000013.mp4",
        "riding a bike/xyz_000120_000130.mkv",
        "dancing_macarena/q_000000_000010.mp4",
        "gone_000007_000017.mp4",
    ]
    assert (len(listed.rows), listed.num_skipped) == (4, 0)
    fewer = read_list(path, videos=str(videos), skip_missing=True)
    assert [row.line for row in fewer.rows] == [2, 3, 4]
    assert fewer.num_skipped == 1
    with pytest.raises(InvalidRequestError, match=r"none of the 4 videos .* looked for -abc_DEF-12_000003_000013\.mp4"):
        read_list(path, videos=str(tmp_path / "elsewhere"), skip_missing=True)


def test_ssv2_classes_are_templates_without_brackets(tmp_path: Path) -> None:
    fill(tmp_path, "78687.webm", "42326.mp4")
    records = [
        {"id": "78687", "label": "holding a potato", "template": "Holding [something] next to [something]"},
        {"id": 42326, "label": "x", "template": "Throwing [something]", "placeholders": ["x"]},
    ]
    listed = read_list(write(tmp_path, json.dumps(records), "something-something-v2-validation.json"))
    assert listed.format == "ssv2"
    assert addresses(listed, tmp_path) == ["78687.webm", "42326.mp4"]
    assert [row.labels for row in listed.rows] == [("Holding something next to something",), ("Throwing something",)]


def test_ek100_rows_are_segments_of_long_videos_or_clips(tmp_path: Path) -> None:
    fill(tmp_path, "P01/videos/P01_11.MP4", "P22/P22_07.MP4", "P01_11_1.mp4")
    content = (
        f"{EK100_HEADER}\n"
        'P01_11_0,P01,P01_11,00:00:00.00,00:00:01.891,"take plate, then spoon",0,2\n'
        "P01_11_1,P01,P01_11,00:00:02.5,00:00:04,put spoon,1,1\n"
        "P22_07_3,P22,P22_07,01:02:03.04,01:02:05,take tap,0,0\n"
    )
    listed = read_list(write(tmp_path, content, "EPIC_100_validation.csv"))
    assert listed.format == "ek100"
    assert addresses(listed, tmp_path) == ["P01/videos/P01_11.MP4", "P01_11_1.mp4", "P22/P22_07.MP4"]
    spans = [(item.start_s, item.end_s) for item in listed.items]
    assert spans == [(0.0, 1.891), (None, None), (3723.04, 3725.0)]
    assert targets_of(listed, [NOUN, VERB]) == (((2,), (1,), (0,)), ((0,), (1,), (0,)))
    assert targets_of(listed, [VERB]) == (((0,), (1,), (0,)),)


@pytest.mark.parametrize("separator", [" ", ",", "\t", ", "])
def test_pyslowfast_lists_have_indices_and_no_header(tmp_path: Path, separator: str) -> None:
    fill(tmp_path, "a b.mp4", "c.mp4")
    content = f"a b.mp4{separator}3\r\n\r\n{tmp_path}/c.mp4{separator}0\r\n"
    listed = read_list(write(tmp_path, content, "val.txt"))
    assert listed.format == "paths"
    assert addresses(listed, tmp_path) == ["a b.mp4", "c.mp4"]
    digits = Classes(head="h", activation="softmax", names=("3", "2", "1", "0"))
    assert targets_of(listed, [digits]) == (((3,), (0,)),)


def test_what_a_list_is_can_be_told_from_its_first_line() -> None:
    assert detect_format("x.JSON", "[]") == "ssv2"
    assert detect_format("x", '\n"video",label\n') == "csv"
    assert detect_format("x.csv", EK100_HEADER) == "ek100"
    assert detect_format("x.csv", "clips/a.mp4 17\n") == "paths"


def test_the_command_offers_every_format() -> None:
    (option,) = (parameter for parameter in evaluate_command.params if parameter.name == "format")
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == ("auto", *FORMATS)


def test_a_format_can_be_insisted_on(tmp_path: Path) -> None:
    fill(tmp_path, "video,label")
    with pytest.raises(InvalidRequestError, match="lacks the column label"):
        read_list(write(tmp_path, "video,who\nx,1\n"), format="kinetics")


def test_columns_may_be_named_as_the_heads(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4")
    listed = read_list(write(tmp_path, "verb,video,noun,note\nput,a.mp4,2,x\n"))
    assert targets_of(listed, [NOUN, VERB]) == (((2,),), ((1,),))
    with pytest.raises(InvalidRequestError, match=r"has the label columns verb, noun, note, but none for .* head tags"):
        targets_of(listed, [NOUN, TAGS])


def test_one_label_column_is_not_enough_for_two_heads(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4")
    listed = read_list(write(tmp_path, "video,label\na.mp4,put\n"))
    with pytest.raises(InvalidRequestError, match="none for the model's heads noun, verb"):
        targets_of(listed, [NOUN, VERB])


def test_multi_label_heads_take_several_labels_or_none(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "b.mp4")
    listed = read_list(write(tmp_path, "video,label\na.mp4,dog | 0|dog\nb.mp4,\n"))
    assert targets_of(listed, [TAGS]) == (((0, 1), ()),)
    with pytest.raises(InvalidRequestError, match=r"line 2: label 'dog \| 0\|dog'"):
        targets_of(listed, [MOTION])
    nothing = read_list(write(tmp_path, "video,label\na.mp4,\n"))
    with pytest.raises(InvalidRequestError, match="not a single label for the head tags"):
        targets_of(nothing, [TAGS])
    with pytest.raises(InvalidRequestError, match="line 2: a label is needed"):
        targets_of(nothing, [MOTION])


def test_a_label_spelt_otherwise_is_named_with_its_line_and_what_is_close(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "b.mp4")
    listed = read_list(write(tmp_path, "video,label\na.mp4,left\nb.mp4,Up The Sky\n"))
    with pytest.raises(
        InvalidRequestError, match=r"list.csv, line 3: label 'Up The Sky' .* close to it are 'up: the sky'"
    ):
        targets_of(listed, [MOTION])


def test_a_name_is_preferred_to_an_index() -> None:
    assert resolve_label("1", {"1": 0, "0": 1}, 2) == 0
    assert resolve_label("1", {"left": 0, "right": 1}, 2) == 1


@pytest.mark.parametrize("label", ["4", "-1", "lefts", "", "1.0", "²"])
def test_a_label_that_the_model_lacks_is_an_error(label: str) -> None:
    with pytest.raises(InvalidRequestError, match="neither"):
        resolve_label(label, {name: index for index, name in enumerate(MOTION.names)}, 4)


@pytest.mark.parametrize(
    "label",
    [
        "passing_American_football_(in_game)",
        "Passing american football (in game)",
        '"passing American football (in game)"',
        "passing  American football (in game) ",
    ],
)
def test_copies_of_lists_spell_names_with_underscores_capitals_and_quotes(label: str) -> None:
    names = {"passing American football (in game)": 0, "passing American football (not in game)": 1}
    assert resolve_label(label, names, 2) == 0
    with pytest.raises(InvalidRequestError, match="neither"):
        resolve_label("UP", {"up": 0, "Up": 1}, 2)


def test_names_are_parted_among_heads() -> None:
    heads = [
        Head(name="noun", num_classes=3, activation="softmax", labels_sha256="0" * 64),
        Head(name="verb", num_classes=2, activation="softmax", labels_sha256="0" * 64),
    ]
    assert classes_of(heads, [*NOUN.names, *VERB.names]) == (NOUN, VERB)
    with pytest.raises(InvalidRequestError, match="5 classes, but 4 names"):
        classes_of(heads, (*NOUN.names, "take"))


def test_a_folder_behind_a_url_is_listed_once(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "sub/b.mp4")
    folder = VideoFolder("memory://list-of-videos/")
    with pytest.raises(InvalidRequestError):
        folder.holds("a.mp4")
    assert folder.address("sub/b.mp4") == "memory://list-of-videos/sub/b.mp4"
    assert folder.address("s3://other/c.mp4") == "s3://other/c.mp4"
    assert folder.holds("s3://other/c.mp4")


def test_a_labelled_list_comes_back_as_it_was(tmp_path: Path) -> None:
    fill(tmp_path, "a.mp4", "b.mp4")
    listed = read_list(write(tmp_path, "video,tags,motion,start_s\na.mp4,dog|ball,left,1\nb.mp4,,3,\n"))
    heads = (MOTION, TAGS)
    labelled = LabelledList.of(listed, heads, None, targets_of(listed, heads))
    labelled.save(tmp_path / "list.json")
    found = LabelledList.load(tmp_path / "list.json")
    assert found == labelled
    assert found.items == list(listed.items)
    np.testing.assert_array_equal(found.right_class(0), [0, 3])
    np.testing.assert_array_equal(found.right_classes(1), [[False, True, True], [False, False, False]])
    assert found.wanted_names(1) == [("dog", "ball"), ()]
    with pytest.raises(InvalidRequestError, match="no folder that `tubelet evaluate --out` has filled"):
        LabelledList.load(tmp_path / "list.csv")
