"""Alert rules by Prometheus' own tool, and the names that rules, dashboard and front agree on."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from monitoring import MONITORING, load_check_names

ROOT = Path(__file__).parents[2]
README = (ROOT / "server" / "README.md").read_text(encoding="utf-8")


check_names = load_check_names()
ALERTS = check_names.rule_expressions()
DASHBOARD = json.loads(check_names.DASHBOARD.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return found


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")],
    ids=" ".join,
)
def test_promtool_agrees(promtool: str, arguments: tuple[str, ...]) -> None:
    done = subprocess.run([promtool, *arguments], cwd=MONITORING, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_where_it_fires_and_one_where_it_does_not() -> None:
    fires, keeps_quiet = set(), set()
    for test in yaml.safe_load((MONITORING / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]:
        instances = {
            name for item in test["input_series"] for name in re.findall(r'(?:instance|model)="(\w+)"', item["series"])
        }
        for case in test["alert_rule_test"]:
            expected = case.get("exp_alerts", [])
            named = {value for alert in expected for value in alert["exp_labels"].values()}
            if expected:
                fires.add(case["alertname"])
            if not expected or instances - named:
                keeps_quiet.add(case["alertname"])
    assert fires == set(ALERTS)
    assert keeps_quiet == set(ALERTS)


def test_every_alert_says_how_bad_it_is_and_the_readme_what_to_do() -> None:
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
    assert re.findall(r"^\| `(Tubelet\w+)`", README, flags=re.MULTILINE) == list(ALERTS)


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("up == 0 or absent(up)", {"up"}),
        ('sum by (a, b) (rate(x_total{c!~".+_(d|e)", f="}"}[5m] offset 1h)) / 1e6 > 0.5', {"x_total"}),
        ("a:b unless on (c) group_left (d) e and ignoring(f) clamp_min(g, 0)", {"a:b", "e", "g"}),
        ("1 - x / (y > 0) * vector(0)", {"x", "y"}),
    ],
)
def test_names_are_read_out_of_expressions(expression: str, names: set[str]) -> None:
    assert check_names.metric_names(expression) == names


def test_a_name_that_is_not_exposed_is_a_mistake() -> None:
    used = set().union(*map(check_names.metric_names, (ALERTS | check_names.dashboard_expressions()).values()))
    page = "".join(
        f'# TYPE {name} counter\n{name}{{a="b"}} 1\n' for name in sorted(used - check_names.ELSEWHERE.keys())
    )
    assert check_names.mistakes(page) == []
    found = check_names.mistakes(page.replace("nv_inference_exec_count", "nv_inference_execution_count"))
    assert found
    assert all("names nv_inference_exec_count, which the server does not expose" in line for line in found)


def test_steps_are_known_by_the_same_names_everywhere() -> None:
    """The repository's folders that no caller may name are those that front, rules and dashboard take for steps."""
    index = json.loads((ROOT / "model_repository" / "repository.json").read_text(encoding="utf-8"))
    public = {entry for model in index["models"] for entry in model["entries"]}
    folders = {path.parent.name for path in (ROOT / "model_repository").glob("*/config.pbtxt")}
    front = (ROOT / "server" / "proxy" / "nginx.conf").read_text(encoding="utf-8")
    texts = [front, *ALERTS.values(), *check_names.dashboard_expressions().values()]
    lists = set(re.findall(r"\((sample\|[\w|]+)\)", "\n".join(texts)))
    steps = min(lists, key=len)
    # The alert on silent models also leaves out the public names that the canary does not ask.
    assert lists == {steps, f"{steps}|frames|chunked|features"}
    is_step = re.compile(f".+_({steps})")
    assert {name for name in folders if is_step.fullmatch(name)} == folders - public
    (meta, infer) = re.findall(r"location ~ (\^/v2/models/\S+)", front)
    for name in folders:
        assert bool(re.match(meta, f"/v2/models/{name}/versions/1/stats")) == (name in public)
        assert bool(re.match(infer, f"/v2/models/{name}/infer")) == (name in public)
    assert not re.match(meta, "/v2/models/stats")


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_the_dashboard_is_whole() -> None:
    """What Grafana needs of it; Grafana itself is not asked."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    sources = MONITORING / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"
    (source,) = yaml.safe_load(sources.read_text(encoding="utf-8"))["datasources"]
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    for panel in panels():
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert used <= variables | {"__rate_interval"}, panel["title"]
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            if by := re.search(r"^(?:sum|max)\s*by \(([\w, ]+)\)", target["expr"]):
                assert labels <= set(re.split(r",\s*", by[1])), panel["title"]


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
