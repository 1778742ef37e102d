"""What an archive can be: folders, patterns, lists and single videos, here and behind URLs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import RUN, made_row
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.archive.addresses import VIDEO_EXTENSIONS, checked, extension, is_url, resolve
from tubelet.archive.items import Item
from tubelet.archive.parts import part_name, write_part
from tubelet.archive.sources import open_source
from tubelet.preprocess.container import FORMATS
from tubelet.spec.errors import InvalidRequestError, MachineError


def uris(source: object, **options: Any) -> list[str]:
    return [item.uri for item in open_source(str(source), options).items()]


def names(source: object, below: Path) -> list[str]:
    return [os.path.relpath(uri, below) for uri in uris(source)]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MKV", "notes.txt", ".c.mp4", "x/2.mp4", "x/10.mp4", "x/y/3.webm", ".git/4.mp4", "w/5.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.fixture
def memory() -> Iterator[Any]:
    file_system = fsspec.filesystem("memory")
    file_system.store.clear()
    file_system.pipe(
        {
            "/v/b.mp4": b"1",
            "/v/a.mov": b"22",
            "/v/s/c.mp4": b"333",
            "/v/.h/d.mp4": b"",
            "/v/.e.mp4": b"",
            "/v/f.txt": b"",
        }
    )
    yield file_system
    file_system.store.clear()


def test_a_folder_is_searched_in_order(archive: Path) -> None:
    assert names(archive, archive) == ["a.MKV", "b.mp4", "x/10.mp4", "x/2.mp4", "x/y/3.webm"]
    assert names(f"{archive}/x/", archive) == ["x/10.mp4", "x/2.mp4", "x/y/3.webm"]
    assert uris(f"file://{archive}") == uris(archive)
    assert open_source(str(archive)).count() is None


def test_relative_sources_are_of_the_working_folder(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archive / "x")
    assert uris(".") == uris(archive / "x")
    assert uris("../b.mp4") == [str(archive / "b.mp4")]
    assert uris("y/*") == [str(archive / "x/y/3.webm")]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.mp4", ["b.mp4"]),
        ("*", ["a.MKV", "b.mp4"]),
        ("*/*", ["x/10.mp4", "x/2.mp4"]),
        ("**", ["a.MKV", "b.mp4", "x/10.mp4", "x/2.mp4", "x/y/3.webm"]),
        ("**/*.mp4", ["b.mp4", "x/10.mp4", "x/2.mp4"]),
        ("x/**/*.webm", ["x/y/3.webm"]),
        ("[wx]/*.b?n", ["w/5.bin"]),
        ("x/?.mp4", ["x/2.mp4"]),
        ("?/[!0-9]/*", ["x/y/3.webm"]),
    ],
)
def test_patterns(archive: Path, pattern: str, found: list[str]) -> None:
    assert names(archive / pattern, archive) == found


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    (tmp_path / "what?[1].mp4").write_bytes(b"")
    assert names(tmp_path / "what?[1].mp4", tmp_path) == ["what?[1].mp4"]


def test_a_pattern_does_not_enter_what_it_cannot_match(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_into: list[str] = []
    scan = os.scandir

    def noting(folder: str) -> Any:
        looked_into.append(folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", noting)
    assert names(archive / "w/*.bin", archive) == ["w/5.bin"]
    assert names(archive / "w*/*.bin", archive) == ["w/5.bin"]
    assert looked_into == [str(archive / "w"), str(archive), str(archive / "w")]


def test_loops_of_links_end_and_nothing_is_lost(archive: Path) -> None:
    (archive / "x/y/up").symlink_to(archive)
    (archive / "x/y/self").symlink_to("self")
    (archive / "w/there").symlink_to(archive / "x")
    (archive / "x/back").symlink_to(archive / "w")
    (archive / "broken.mp4").symlink_to("nothing")
    found = names(archive, archive)
    assert {"a.MKV", "b.mp4", "broken.mp4", "x/10.mp4", "x/2.mp4", "x/y/3.webm", "w/there/10.mp4"} <= set(found)
    assert len(found) == len(set(found)) < 20
    assert names(archive / "**/*.MKV", archive) == ["a.MKV"]


def test_many_links_into_each_other_end(tmp_path: Path) -> None:
    for one in range(12):
        (tmp_path / f"d{one}").mkdir()
        (tmp_path / f"d{one}" / "v.mp4").write_bytes(b"")
        for other in range(12):
            (tmp_path / f"d{one}" / f"to{other}").symlink_to(tmp_path / f"d{other}")
    assert len(uris(tmp_path)) == 24  # each once as it is, and once by the first link


def test_a_name_that_is_no_text_comes_through(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.mp4"
    Path(os.fsdecode(raw)).write_bytes(b"")
    assert [os.fsencode(uri) for uri in uris(tmp_path)] == [raw]
    (tmp_path / "l.csv").write_bytes(b"uri\n\xff\xfe.mp4\n")
    (tmp_path / "l.jsonl").write_bytes(b'{"uri": "\xff\xfe.mp4"}\n')
    assert [os.fsencode(uri) for name in ("l.csv", "l.jsonl") for uri in uris(tmp_path / name)] == [raw] * 2


def test_a_folder_that_cannot_be_read_is_not_lost(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refusing(folder: str) -> Any:
        if folder == str(archive / "x"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    assert names(archive, archive) == ["a.MKV", "b.mp4", "x"]
    with pytest.raises(InvalidRequestError, match=r"cannot read .*/x: Permission denied"):
        uris(archive / "x")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("nothing", "nothing does not exist; a folder, a pattern, a list"),
        ("w", r"no video was found; looked for videos \(by their endings\) in .*/w and below"),
        ("*.avi", r"looked for files that match .*/\*\.avi"),
        ("nowhere/*.mp4", "nowhere: No such file"),
        ("a**/b", r"is no pattern: Invalid pattern: '\*\*'"),
    ],
)
def test_nothing_found_says_what_was_looked_for(archive: Path, source: str, told: str) -> None:
    with pytest.raises(InvalidRequestError, match=told):
        uris(archive / source)


def test_odd_sources_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="the address is empty"):
        open_source("")
    with pytest.raises(InvalidRequestError, match="is on another machine"):
        open_source("file://elsewhere/a.mp4")
    with pytest.raises(InvalidRequestError, match="Protocol not known: nonsense"):
        open_source("nonsense://a/b")


LISTED = [
    Item("/data/a.mp4", 1.0, 2.5),
    Item("s3://bucket/b c.mp4"),
    Item("/abs/c.mp4", None, 3.0),
    Item("/data/sub/d,e.mp4", 0.5),
    Item("/data/f g.mp4"),
]


def test_a_list_as_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "l.CSV").write_text(
        "\ufefflabel, video ,end_s,start_s\n0,a.mp4,2.5,1\n\n1,s3://bucket/b c.mp4,,\n2,/abs/./c.mp4,3,\n"
        f'3,"sub/../sub/d,e.mp4",,0.5\n4,file://{tmp_path}/f%20g.mp4,,\n',
        encoding="utf-8",
    )
    source = open_source(str(tmp_path / "l.CSV"))
    assert source.count() == 5
    assert list(source.items()) == moved(LISTED, tmp_path)
    assert list(source.items()) == moved(LISTED, tmp_path)  # again from the start


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson"])
def test_a_list_as_json_lines(tmp_path: Path, ending: str) -> None:
    entries = [
        {"uri": item.uri.removeprefix("/data/"), "start_s": item.start_s, "end_s": item.end_s, "label": 3}
        for item in LISTED
    ]
    path = tmp_path / f"l{ending}"
    path.write_text("\n".join(map(json.dumps, entries[:2])) + "\n \n" + "\n".join(map(json.dumps, entries[2:])))
    source = open_source(str(path))
    assert source.count() == 5
    assert list(source.items()) == moved(LISTED, tmp_path)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_a_list_as_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {
        "label": [0] * 5,
        "uri": pa.array([item.uri.removeprefix("/data/") for item in LISTED]).cast(kind),
        "end_s": pa.array([item.end_s for item in LISTED], pa.float32()),
        "start_s": [item.start_s for item in LISTED],
    }
    pq.write_table(pa.table(columns), tmp_path / "l.parquet", row_group_size=2)
    source = open_source(str(tmp_path / "l.parquet"))
    assert source.count() == 5
    assert list(source.items()) == moved(LISTED, tmp_path)


def moved(items: list[Item], folder: Path) -> list[Item]:
    return [Item(item.uri.replace("/data/", f"{folder}/"), item.start_s, item.end_s) for item in items]


def test_the_output_of_a_run_is_a_list(tmp_path: Path) -> None:
    write_part(tmp_path / part_name(0), [made_row(number) for number in range(3)], RUN)
    assert uris(tmp_path / part_name(0)) == [made_row(number).item.uri for number in range(3)]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("l.csv", "", "l.csv, line 1: a column uri or video is expected, got nothing"),
        ("l.csv", "path,label\na,1\n", "line 1: a column uri or video is expected, got 'path', 'label'"),
        ("l.csv", "uri\n", "no video was found; looked for entries in"),
        ("l.csv", "uri,x\na,1\n\nb\n", "line 4: 2 fields are expected, as in the header, got 1"),
        ("l.csv", "uri\na,b.mp4\n", "line 2: 1 fields are expected, as in the header, got 2"),
        ("l.csv", "uri,start_s\na,1\nb,soon\n", "line 3: start_s must be a number of seconds, got 'soon'"),
        ("l.csv", "uri,start_s\na,-1\n", "line 2: start_s must be a number of seconds from 0, got '-1'"),
        ("l.csv", "uri,end_s\na,nan\n", "line 2: end_s must be a number of seconds from 0"),
        ("l.csv", "uri,start_s,end_s\na,2,1\n", "line 2: start_s < end_s is expected, got 2 and 1"),
        ("l.csv", "uri,x\n,1\n", "line 2: the address is empty"),
        ("l.csv", "uri\na\0b\n", "line 2: the address 'a\\x00b' has a null byte"),
        ("l.csv", "uri\nfile://other/a\n", "line 2: file://other/a is on another machine"),
        ("l.csv", 'uri\n"' + "x" * 200_000 + '"\n', "is no readable CSV: field larger than"),
        ("l.jsonl", '{"uri": "a"}\n{"uri"\n', "line 2: this is no JSON"),
        ("l.jsonl", '{"uri": "a"}\n["a"]\n', "line 2: an object such as"),
        ("l.jsonl", '{"path": "a"}\n', "line 1: a column uri or video is expected, got 'path'"),
        ("l.jsonl", '{"uri": 3}\n', "line 1: the address must be text, got 3"),
        ("l.jsonl", '{"uri": "a", "start_s": true}\n', "line 1: start_s must be a number of seconds, got True"),
        ("l.jsonl", '{"uri": "a", "start_s": 1' + "0" * 400 + "}\n", "line 1: start_s must be a number of seconds"),
        ("l.jsonl", '{"uri": "\\ud800"}\n', "line 1: the address '\\ud800' is no text"),
        ("l.parquet", "uri\n", "is no readable Parquet"),
    ],
)
def test_a_list_that_cannot_be_understood_names_the_line(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidRequestError, match=re.escape(told)) as raised:
        uris(tmp_path / name)
    assert raised.value.code == "bad_input"


def test_a_parquet_list_names_the_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": ["a"] * 5000 + [None], "label": [1] * 5001}), tmp_path / "l.parquet")
    with pytest.raises(InvalidRequestError, match=r"l\.parquet, row 5001: the address must be text, got None"):
        uris(tmp_path / "l.parquet")
    pq.write_table(pa.table({"label": [1]}), tmp_path / "m.parquet")
    with pytest.raises(InvalidRequestError, match="a column uri or video is expected, got 'label'"):
        uris(tmp_path / "m.parquet")


def test_items_before_a_bad_line_are_given(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("uri\na\nb\n\0\n")
    assert len(list(islice(open_source(str(tmp_path / "l.csv")).items(), 2))) == 2


def test_a_list_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "l.csv").write_text("uri\na\n")
    source = open_source(str(tmp_path / "l.csv"))
    (tmp_path / "l.csv").unlink()
    with pytest.raises(InvalidRequestError, match=r"cannot read .*l\.csv: it does not exist"):
        list(source.items())


def test_urls_are_searched_as_folders_are(memory: Any) -> None:
    assert uris("memory://v") == ["memory:///v/a.mov", "memory:///v/b.mp4", "memory:///v/s/c.mp4"]
    assert uris("memory://v/s/") == ["memory:///v/s/c.mp4"]
    assert uris("memory://v/*") == ["memory:///v/a.mov", "memory:///v/b.mp4"]
    assert uris("memory://v/**/*.mp4") == ["memory:///v/b.mp4", "memory:///v/s/c.mp4"]
    assert uris("memory://v/?/*.mp4") == ["memory:///v/s/c.mp4"]
    assert uris("memory://v/b.mp4") == ["memory://v/b.mp4"]
    assert uris("memory://v/f.txt") == ["memory://v/f.txt"]
    assert open_source("memory://v").count() is None
    assert open_source("memory://v/b.mp4").count() == 1
    with pytest.raises(InvalidRequestError, match="cannot read memory://v/g: it does not exist"):
        open_source("memory://v/g")


def test_lists_behind_urls(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/v/l.csv", b"uri\nb.mp4\n../w/x.mp4\n/abs.mp4\nhttps://h/y.mp4?z=1\n")
    pq.write_table(pa.table({"uri": ["s/c.mp4"]}), tmp_path / "l.parquet")
    memory.pipe("/v/l.parquet", (tmp_path / "l.parquet").read_bytes())
    assert uris("memory://v/l.csv") == ["memory://v/b.mp4", "memory://w/x.mp4", "/abs.mp4", "https://h/y.mp4?z=1"]
    assert uris("memory://v/l.parquet") == ["memory://v/s/c.mp4"]
    assert open_source("memory://v/l.parquet").count() == 1
    assert open_source("memory://v/l.csv").count() is None


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


def test_a_folder_on_the_web(archive: Path) -> None:
    (archive / "l.csv").write_text("uri\nx/2.mp4\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(archive))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        web = f"http://127.0.0.1:{server.server_port}"
        try:
            found = [f"{web}/{name}" for name in ("a.MKV", "b.mp4", "x/10.mp4", "x/2.mp4", "x/y/3.webm")]
            assert uris(f"{web}/") == found
            assert uris(f"{web}/x/*.mp4") == found[2:4]
            assert uris(f"{web}/l.csv?token=1") == [f"{web}/x/2.mp4"]
            assert uris(f"{web}/watch?v=3") == [f"{web}/watch?v=3"]
        finally:
            server.shutdown()
            thread.join()


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(protocol: str, **options: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(MachineError, match=r"no package for s3:// addresses is installed; pip install 'tubelet\[s3\]'"):
        open_source("s3://bucket/prefix/")


def test_every_container_of_the_server_has_its_endings() -> None:
    others = {"matroska": ".mkv", "mpegts": ".ts"}
    wanted = {others.get(name, f".{name}") for name in FORMATS.split(",")} - {".m4a"}  # sound
    assert wanted <= VIDEO_EXTENSIONS
    assert all(ending == ending.lower() for ending in VIDEO_EXTENSIONS)


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_an_address_stays_what_it_is_once_it_is_resolved(address: str) -> None:
    try:
        resolved = resolve(checked(address), "/here")
    except (InvalidRequestError, ValueError):
        return
    assert is_url(resolved) or resolved.startswith("/")
    assert resolve(resolved, "/elsewhere") == resolved


def test_endings() -> None:
    assert extension("https://host/a.b/video.MP4?token=x.csv#y") == ".mp4"
    assert extension("s3://b/a?x.csv") == ".csv"
    assert extension("/a.mp4/b") == ""
