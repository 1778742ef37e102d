"""The scenarios of the repository: each loads, asks this machine only, and asks for models that the demo has."""

import re
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tubelet.clients.address import parse_url
from tubelet.loadtest.promise import check_names, parse_promise
from tubelet.loadtest.scenario import (
    Bursts,
    Closed,
    Folder,
    RequestKind,
    Scenario,
    Search,
    Steady,
    Steps,
    Stream,
    Synthetic,
    Trace,
    load_scenario,
)
from tubelet.spec.recipe import Recipe

ROOT = Path(__file__).parents[2]
SCENARIOS = sorted((ROOT / "loadtest" / "scenarios").glob("*.toml"))
RECIPES = {path.stem: Recipe.load(path) for path in sorted((ROOT / "export" / "recipes").glob("motion*.toml"))}

every_scenario = pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)


def test_all_of_them_are_here() -> None:
    assert [path.stem for path in SCENARIOS] == ["bursts", "mixed", "overload", "single_view", "smoke", "soak"]


@every_scenario
def test_it_loads_and_says_what_it_is_for(path: Path) -> None:
    scenario = load_scenario(path)
    assert scenario.name == path.stem
    assert len(scenario.description.split()) > 20
    assert f"scenarios/{path.name}" in (ROOT / "loadtest" / "README.md").read_text(encoding="utf-8")


@every_scenario
def test_it_asks_this_machine_only(path: Path) -> None:
    scenario = load_scenario(path)
    assert parse_url(scenario.url).authority == "127.0.0.1:8001"
    assert scenario.metrics_url is not None
    assert urlsplit(scenario.metrics_url).netloc == "127.0.0.1:8002"


@every_scenario
def test_the_demo_can_answer_it(path: Path) -> None:
    scenario = load_scenario(path)
    for _, kind in scenario.kinds:
        recipe = RECIPES[kind.model]
        assert kind.protocol in recipe.protocols
    # Whoever runs it needs nothing but the repository.
    assert all(isinstance(videos, Synthetic) for videos in scenario.videos.values())


@every_scenario
def test_its_promise_can_be_judged(path: Path) -> None:
    scenario = load_scenario(path)
    clauses = parse_promise(scenario.promise or "")
    check_names(clauses, scenario)
    assert bool(clauses) == (path.stem != "overload")


def test_the_smoke_test_is_short_and_asks_every_model() -> None:
    scenario = of("smoke")
    assert scenario.warm_up_s + scenario.duration_s <= 10
    assert {kind.model for _, kind in scenario.kinds} == set(RECIPES)


def test_overload_is_between_loads_that_are_equal() -> None:
    (stream,) = of("overload").streams
    assert isinstance(stream.arrivals, Steps)
    before, middle, after = stream.arrivals.stages
    assert before == after
    assert middle[1] >= 5 * before[1]
    # What comes in the measured time ends with the recovery.
    assert sum(seconds for seconds, _, _ in stream.arrivals.stages) == of("overload").duration_s


def test_the_soak_takes_an_hour_and_is_not_ended_by_its_count() -> None:
    scenario = of("soak")
    assert scenario.duration_s == 3600
    (stream,) = scenario.streams
    assert isinstance(stream.arrivals, Steady)
    assert scenario.most_requests > 1.5 * 3600 * stream.arrivals.rate


def test_the_examples_of_the_readme_load(tmp_path: Path) -> None:
    readme = (ROOT / "loadtest" / "README.md").read_text(encoding="utf-8")
    whole, arrivals = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    lines = arrivals.splitlines()
    (steady,) = [line for line in whole.splitlines() if line.startswith("arrivals =")]
    kinds = set()
    for line in [steady, *lines]:
        path = tmp_path / "example.toml"
        path.write_text(whole.replace(steady, line), encoding="utf-8")
        scenario = load_scenario(path)
        check_names(parse_promise(scenario.promise or ""), scenario)
        kinds.add(scenario.streams[0].arrivals.kind)
    assert kinds == {"steady", "closed", "steps", "bursts", "trace"}
    # Every key is shown.
    for cls in (Scenario, Stream, RequestKind, Search, Synthetic, Folder, Closed, Steady, Steps, Bursts, Trace):
        for field in fields(cls):
            assert re.search(rf"\b{field.name}\b", whole + arrivals), f"{cls.__name__}.{field.name}"


def of(name: str) -> Scenario:
    return load_scenario(ROOT / "loadtest" / "scenarios" / f"{name}.toml")
