"""A scenario is read as it is written, and one that is not right says where."""

from pathlib import Path

import pytest

from tubelet.loadtest.scenario import Closed, Folder, Scenario, Steady, Synthetic, load_scenario
from tubelet.spec.errors import ScenarioError

SCENARIO = """
name = "small"
url = "127.0.0.1:8001"
duration_s = 10

[videos.made]
kind = "synthetic"

[videos.files]
kind = "folder"
path = "clips"

[[streams]]
name = "people"
arrivals = { kind = "steady", rate = 5 }
requests = [{ name = "short", model = "motion", videos = "made" }]

[[streams]]
name = "archive"
priority = "archive"
arrivals = { kind = "closed", callers = 2 }
requests = [{ name = "long", model = "motion", videos = "files", protocol = "4x3", weight = 2 }]
"""

STEADY = '{ kind = "steady", rate = 5 }'


def load(folder: Path, text: str) -> Scenario:
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return load_scenario(path)


def test_a_scenario_is_read_as_it_is_written(tmp_path: Path) -> None:
    scenario = load(tmp_path, SCENARIO)
    people, archive = scenario.streams
    assert people.arrivals == Steady(kind="steady", rate=5.0)
    assert archive.arrivals == Closed(kind="closed", callers=2)
    assert (people.priority, archive.priority) == ("interactive", "archive")
    assert scenario.videos == {"made": Synthetic(kind="synthetic"), "files": Folder(kind="folder", path="clips")}
    assert [(stream.name, kind.name, kind.weight) for stream, kind in scenario.kinds] == [
        ("people", "short", 1.0),
        ("archive", "long", 2.0),
    ]


def test_what_is_asked_has_a_digest(tmp_path: Path) -> None:
    scenario = load(tmp_path, SCENARIO)
    assert scenario.digest == load(tmp_path, f"# the same\n{SCENARIO}").digest
    assert scenario.digest != load(tmp_path, SCENARIO.replace("rate = 5", "rate = 6")).digest


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("duration_s = 10", "duration = 10", "scenario has unknown keys duration"),
        ('url = "127.0.0.1:8001"\n', "", "scenario lacks url"),
        ("duration_s = 10", "duration_s = 0", "duration_s must be above 0"),
        ("duration_s = 10", "duration_s = 86401", "duration_s must be above 0 and at most 86400"),
        ("duration_s = 10", 'duration_s = "10"', "scenario.duration_s must be a value of type float"),
        ("duration_s = 10", "duration_s = 10\nwarm_up_s = -1", "warm_up_s must be from 0"),
        ("duration_s = 10", "duration_s = 10\nmost_requests = 0", "most_requests must be above 0"),
        ("duration_s = 10", "duration_s = 10\nmost_in_flight = 10001", "most_in_flight must be above 0 and at most"),
        ('kind = "synthetic"', 'kind = "invented"', "scenario.videos.made.kind must be one of"),
        ('kind = "synthetic"', 'kind = "synthetic"\ncount = 0', "videos.made.count must be above 0"),
        ('kind = "synthetic"', 'kind = "synthetic"\nduration_s = 0.0', "videos.made.duration_s must be above 0"),
        ('path = "clips"', 'path = "clips"\nmost = 0', "videos.files.most must be above 0"),
        ('name = "archive"', 'name = "people"', "streams must have names, each once"),
        ('name = "long"', 'name = "short"', "requests must have names, each once"),
        ('videos = "files"', 'videos = "film"', "long asks for videos 'film'; the scenario has made, files"),
        ('priority = "archive"', 'priority = "urgent"', "scenario.streams[1].priority must be one of"),
        ('priority = "archive"', "deadline_s = 0.0", "archive.deadline_s must be above 0"),
        ("weight = 2", "weight = 0.0", "long.weight must be above 0"),
        ("callers = 2", "callers = 0", "archive.callers must be above 0"),
        ("callers = 2", "callers = 2, pause_s = -1.0", "archive.pause_s must be 0 or more"),
        ("rate = 5", "rate = 0", "people.rate must be above 0"),
        ("rate = 5", "rate = 1e6", "people.rate must be above 0 and at most 100000"),
        ("rate = 5", 'rate = 5, spacing = "even"', "scenario.streams[0].arrivals.spacing must be one of"),
        (STEADY, '{ kind = "sudden" }', "scenario.streams[0].arrivals.kind must be one of"),
        (STEADY, '{ kind = "bursts", size = 0, every_s = 1.0 }', "people.size must be above 0"),
        (STEADY, '{ kind = "bursts", size = 1, every_s = 0.0 }', "people.every_s must be above 0"),
        (STEADY, '{ kind = "steps", stages = [] }', "people.stages must be stages in which requests arrive"),
        (STEADY, '{ kind = "steps", stages = [[9, 0, 0]] }', "people.stages must be stages in which requests arrive"),
        (STEADY, '{ kind = "steps", stages = [[9, 1]] }', "scenario.streams[0].arrivals.stages[0] must be a list of 3"),
        (STEADY, '{ kind = "steps", stages = [[9, 1, 1], [0, 1, 1]] }', "people.stages: seconds must be above 0"),
        (STEADY, '{ kind = "steps", stages = [[9, -1, 2]] }', "people.stages: rates must be from 0 to 100000 a second"),
        (STEADY, '{ kind = "trace", file = "t.txt", speed = 0.0 }', "people.speed must be above 0"),
        ('name = "small"', 'name = "a/b"', "name must be the name of a file, of at most 60 characters, got 'a/b'"),
        ('name = "small"', 'name = "../up"', "name must be the name of a file"),
        ('name = "small"', 'name = ""', "name must be the name of a file"),
        ("name =", "name", "small.toml is not TOML"),
    ],
)
def test_what_is_wrong_with_it_has_a_place(tmp_path: Path, old: str, new: str, place: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path, SCENARIO.replace(old, new, 1))
    assert caught.value.code == "bad_scenario"
    assert place in caught.value.message


def test_a_stream_without_requests_is_named(tmp_path: Path) -> None:
    start = SCENARIO.index('requests = [{ name = "long"')
    with pytest.raises(ScenarioError, match="those of archive are missing"):
        load(tmp_path, f"{SCENARIO[:start]}requests = []\n")


def test_a_scenario_without_streams_is_none(tmp_path: Path) -> None:
    text = f"streams = []\n{SCENARIO[: SCENARIO.index('[[streams]]')]}"
    with pytest.raises(ScenarioError, match="streams must have names, each once, got"):
        load(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"cannot read .*nothing\.toml: No such file"):
        load_scenario(tmp_path / "nothing.toml")


def test_a_file_that_is_no_text_is_no_scenario(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScenarioError, match=r"small\.toml is not TOML"):
        load_scenario(path)
