"""Compares every metric that alerts and dashboard name with what a running server exposes.

    python server/monitoring/check_names.py [http://127.0.0.1:8002/metrics]

A name that the server does not expose is a mistake, unless `ELSEWHERE` says where or when it is there. Exit code 1 when
there are mistakes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml  # type: ignore[import-untyped]

__all__ = [
    "ALERTS",
    "DASHBOARD",
    "ELSEWHERE",
    "dashboard_expressions",
    "exposed_names",
    "metric_names",
    "mistakes",
    "rule_expressions",
]

FOLDER = Path(__file__).parent
ALERTS = FOLDER / "alerts.yml"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "tubelet.json"

_GPU = "Triton's GPU metrics, on machines with one"
_NVDEC = "where the card decodes, and after its first video"
ELSEWHERE = {
    "up": "Prometheus' own word on each target",
    "nv_gpu_utilization": _GPU,
    "nv_gpu_memory_used_bytes": _GPU,
    "nv_gpu_memory_total_bytes": _GPU,
    "nv_gpu_power_usage": _GPU,
    "nv_gpu_power_limit": _GPU,
    "tubelet_gpu_decoded_videos_total": _NVDEC,
    "tubelet_gpu_decode_fallbacks_total": _NVDEC,
    "tubelet_errors_total": "after the first request that failed",
    "tubelet_features_reused_total": "after the first request that brought features",
}
"""Names that a server without a GPU, and which nobody has asked anything, does not expose; each with the reason."""

_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "start", "end", "atan2"}
_NOT_METRICS = re.compile(
    r'"(?:[^"\\]|\\.)*"'  # label values
    r"|\{[^}]*\}|\[[^\]]*\]"  # matchers, ranges
    r"|\b(?:by|without|on|ignoring|group_left|group_right)\s*(?:\([^)]*\))?"  # labels
    r"|\b\d[\w.]*"  # numbers, durations
    r"|[a-zA-Z_]\w*(?=\s*\()"  # functions
)
_METRIC = re.compile(r"[a-zA-Z_:][\w:]*")


def rule_expressions(path: Path = ALERTS) -> dict[str, str]:
    """Expressions of a file of rules, by the name of the alert."""
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def dashboard_expressions(path: Path = DASHBOARD) -> dict[str, str]:
    """Expressions of a Grafana dashboard, by ``panel: legend``; variables as they stand there."""
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    return dict(_expressions(dashboard))


def _expressions(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"{panel['title']}: {target['legendFormat']}", target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]
    for variable in dashboard["templating"]["list"]:
        query = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])
        if query is None:
            raise ValueError(f"variable {variable['name']}: expected label_values(METRIC, LABEL)")
        yield f"variable {variable['name']}", query[1]


def metric_names(expression: str) -> set[str]:
    """Names of the metrics in a PromQL expression."""
    bare = _NOT_METRICS.sub(" ", _NOT_METRICS.sub(" ", expression))
    return set(_METRIC.findall(bare)) - _WORDS


def exposed_names(metrics: str) -> set[str]:
    """Names of the samples and of the declared metrics on a metrics page in Prometheus' text format."""
    lines = metrics.splitlines()
    declared = {line.split()[2] for line in lines if line.startswith("# TYPE ")}
    return declared | {line.partition("{")[0].split()[0] for line in lines if line and not line.startswith("#")}


def mistakes(metrics: str) -> list[str]:
    """Names that alerts or dashboard use and the metrics page lacks, and entries of `ELSEWHERE` that nothing uses."""
    exposed = exposed_names(metrics)
    used = {where: metric_names(text) for where, text in (rule_expressions() | dashboard_expressions()).items()}
    found = [
        f"{where} names {name}, which the server does not expose"
        for where, names in used.items()
        for name in sorted(names - exposed - ELSEWHERE.keys())
    ]
    idle = ELSEWHERE.keys() - set().union(*used.values())
    return found + [f"ELSEWHERE excuses {name}, which nothing uses" for name in sorted(idle)]


def main() -> int:
    """Compares with the server at the address on the command line."""
    address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8002/metrics"
    with urlopen(address) as answer:
        found = mistakes(answer.read().decode())
    for line in found:
        sys.stdout.write(line + "\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
