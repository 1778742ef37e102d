"""The record of `trust.py` as a page: what was promised, what was found, and every figure behind it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

__all__ = ["render"]

MOST_ADDED_MS = 1.0
LEAST_SHARE_OF_RATE = 0.99
MOST_FROM_TRITON = 0.02
MOST_FROM_PERF = 0.10
MOST_FROM_PAUSE = 0.10
ASLEEP = ("null_asleep_open", "null_asleep_closed")
"""Cases in which transport, which Triton does not see, is too little to be seen in the mean."""
RATIOS = ("rate", "mean_ms", "p50_ms", "p90_ms", "p99_ms")

CASES = {
    "null_2000_http": "null model over HTTP, Poisson at {rate:,.0f}/s",
    "null_2000_grpc": "null model over gRPC, Poisson at {rate:,.0f}/s",
    "null_1000_grpc": "null model over gRPC, Poisson at {rate:,.0f}/s",
    "null_open": "null model, Poisson at {rate:g}/s",
    "null_asleep_open": "null model that sleeps 200 ms, Poisson at {rate:g}/s",
    "null_asleep_closed": "the same, {callers} callers",
    "motion_open": "demo model `motion`, 1x1, Poisson at {rate:g}/s",
    "motion_closed": "the same, {callers} callers",
}


def render(record: dict[str, Any]) -> str:
    """Markdown."""
    parts = [_head(record), _goals(record)]
    parts += [f"**The section {name} failed**: {why}" for name, why in record["failures"].items()]
    parts += [write(record) for name, write in _SECTIONS if name in record]
    return "\n\n".join([*parts, _commands(record)]) + "\n"


def _head(record: dict[str, Any]) -> str:
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    perf = record["perf_analyzer"] or f"none: {record['why_not']}"
    return "\n".join(
        [
            "# How far the load generator can be believed",
            "",
            f"Written by `{record['command']}` on {record['date']}; every figure is in `trust.json` beside this page.",
            "",
            f"- Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
            f"{machine['system']}, Python {machine['python']}; generator and server share it "
            "(loopback; gRPC where nothing else is said)",
            f"- Versions: {versions}",
            f"- perf_analyzer: {perf}",
            "",
            "*Null model*: a model of Triton's Python backend behind an ensemble, with the interface of the demo model "
            "`motion`, that answers constants (`benchmarks/null_server.py`). Figures are medians of the rounds, in "
            "which the generators took turns.",
        ]
    )


def _goals(record: dict[str, Any]) -> str:
    rows: list[tuple[str, str, bool]] = []
    for name, case in record.get("rate", {}).items():
        rows += _rate_goals(name, case)
    for name, case in record.get("comparison", {}).items():
        rows += _agreement(name, case)
    if "pause" in record:
        pause_s, p999_ms = record["pause"]["pause_s"], record["pause"]["found"]["ours"]["p999_ms"]
        held = abs(p999_ms / 1000 / pause_s - 1) <= MOST_FROM_PAUSE
        rows.append((f"a pause of {pause_s:g} s is {pause_s:g} s in p99.9", f"{p999_ms / 1000:.2f} s", held))
    if not rows:
        return "## What it should do\n\nNothing that was measured tells."
    lines = [f"| {goal} | {found} | {'yes' if held else '**no**'} |" for goal, found, held in rows]
    return "\n".join(["## What it should do", "", "| goal | found | met |", "| --- | --- | --- |", *lines])


def _rate_goals(name: str, case: dict[str, Any]) -> list[tuple[str, str, bool]]:
    what, ours = _what(name, case), _median(case, "ours")
    held = ours["rate"] >= LEAST_SHARE_OF_RATE * case["rate"] and not ours["errors"]
    added = _added_ms(case)
    words = ", ".join(f"{ms:.2f} ms above {whom}" for whom, ms in added.items())
    return [
        (f"{what}: holds the rate", f"{ours['rate']:.0f}/s answered, {ours['errors']:.0f} errors", held),
        (f"{what}: adds less than 1 ms at p50", words, all(ms < MOST_ADDED_MS for ms in added.values())),
    ]


def _agreement(name: str, case: dict[str, Any]) -> list[tuple[str, str, bool]]:
    what, ours = _what(name, case), _median(case, "ours")
    ratios = {"count": ours["count"] / ours["triton_count"]}
    if name in ASLEEP:
        ratios["mean"] = ours["mean_ms"] / ours["triton_mean_ms"]
    rows = [(f"{what}: within 2 % of Triton", _ratios(ratios), _all_within(ratios, MOST_FROM_TRITON))]
    if name != "null_open" and any("perf_analyzer" in found for found in case["rounds"]):
        theirs = _median(case, "perf_analyzer")
        ratios = {field: ours[field] / theirs[field] for field in RATIOS}
        rows.append((f"{what}: within 10 % of perf_analyzer", _ratios(ratios), _all_within(ratios, MOST_FROM_PERF)))
    return rows


def _rate(record: dict[str, Any]) -> str:
    text = (
        "The null model does nothing, so what is left of the latency is transport and who asks. What the "
        "generator *adds* is told in two ways, round by round: its p50 above the mean time that Triton itself "
        "says a request took, in which the wire and Triton's own HTTP or gRPC are; and its p50 above that of "
        "perf_analyzer, which is written in C++ and takes less of the cores that generator and server share. "
        "*Lag* is how much later than due a request was sent."
    )
    parts = ["## Rate", "", text]
    for name, case in record["rate"].items():
        ours = _median(case, "ours")
        notes = (
            f"Lag p50 {ours['lag_p50_ms']:.2f} ms, p99 {ours['lag_p99_ms']:.2f} ms; the generator kept "
            f"{ours['generator_cores']:.2f} cores busy."
        )
        parts += ["", _title(name, case), "", *_table(_by_name(case)), "", notes, *_failures(case)]
    return "\n".join(parts)


def _comparison(record: dict[str, Any]) -> str:
    text = (
        "The same videos at the same rate, or by as many callers. perf_analyzer counts from the moment it sends, ours "
        "from the moment a request was due; below saturation that is the same. Both draw the times of an open loop, so "
        "p99 differs by chance, too. Where the model does nothing, each generator's own time is all there is, and "
        "nothing is promised of the ratio."
    )
    triton = (
        "*Against Triton* two things are compared, over the same run. The count: answers to requests that were due in "
        "the measured time, as the generator counted them, against successes that Triton counted for the public name "
        "between the beginning of that time and the last answer. Requests of the warm-up that are answered after its "
        "end are in Triton's alone; they are no more than were in flight. The mean: of the whole latency, against "
        "Triton's mean time from having the request to having its answer. gRPC, the wire and the generator are in the "
        "first alone, so it can only be larger, and is judged only where the model takes a hundred times longer than "
        "they do. Queue and compute (copies of inputs and outputs included; all steps together) are Triton's own "
        "figures, which either generator reads over its own run: they say whether both runs met the same server."
    )
    parts = ["## Side by side", "", text, "", triton]
    for name, case in record["comparison"].items():
        parts += ["", _title(name, case), "", *_table(_by_name(case)), *_failures(case)]
    return "\n".join(parts)


def _pause(record: dict[str, Any]) -> str:
    case = record["pause"]
    slow = case["rate"] * (case["pause_s"] - 1)
    text = (
        f"The null model's server is stopped (SIGSTOP) for {case['pause_s']:g} s in the midst of {case['seconds']:g} s "
        f"at {case['rate']:g} requests a second. Who is due in the first {case['pause_s'] - 1:g} s of the pause waits "
        f"longer than a second: some {slow:.0f} requests. A generator whose callers wait for their answers asks less "
        "while the server stands still, and its percentiles know little of it (coordinated omission): `--sync`, here "
        "with 16 threads."
    )
    rows = [
        f"| {name} | {found['count']} | {found['beyond_1_s']} | "
        + " | ".join(f"{found[field]:.0f}" for field in ("p99_ms", "p999_ms", "max_ms"))
        + " |"
        for name, found in case["found"].items()
    ]
    head = ["| generator | requests | above 1 s | p99, ms | p99.9, ms | max, ms |", "| --- | " + "---: | " * 5]
    notes = [f"{name} says of its own figures: {found['finding']}." for name, found in _with_finding(case)]
    notes += [f"{name} gave no figures: {why}" for name, why in case["failures"].items()]
    notes = [line for note in notes for line in ("", note)]
    return "\n".join(["## A server that stands still", "", text, "", head[0], head[1].rstrip(), *rows, *notes])


def _failures(case: dict[str, Any]) -> list[str]:
    return [line for why in case["failures"] for line in ("", f"perf_analyzer gave no figures in {why}")]


def _with_finding(case: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, found) for name, found in case["found"].items() if "finding" in found]


def _commands(record: dict[str, Any]) -> str:
    cases = {**record.get("rate", {}), **record.get("comparison", {}), "pause": record.get("pause")}
    parts = ["## Commands", "", "`tubelet loadtest SCENARIO.toml --out build/trust`, and perf_analyzer:", "", "```"]
    parts += [case["perf_analyzer_command"] for case in cases.values() if case and case["perf_analyzer_command"]]
    return "\n".join([*parts, "```"])


_SECTIONS = (("rate", _rate), ("comparison", _comparison), ("pause", _pause))


def _by_name(case: dict[str, Any]) -> dict[str, dict[str, float]]:
    names = ["ours", *(["perf_analyzer"] if any("perf_analyzer" in found for found in case["rounds"]) else [])]
    return {name: _median(case, name) for name in names}


def _table(found: dict[str, dict[str, float]]) -> list[str]:
    lines = [
        "| generator | answers a second | mean, ms | p50 | p90 | p99 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, figures in found.items():
        times = " | ".join(f"{figures[field]:.2f}" for field in RATIOS[1:])
        lines.append(f"| {name} | {figures['rate']:.1f} | {times} |")
    if "perf_analyzer" in found:
        ratios = [found["ours"][field] / found["perf_analyzer"][field] for field in RATIOS]
        lines.append("| ratio | " + " | ".join(f"{ratio:.3f}" for ratio in ratios) + " |")
    lines += ["", "| Triton's statistics, while | answers told | counted | mean, ms | queue | compute |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, figures in found.items():
        if "triton_mean_ms" in figures:
            times = " | ".join(f"{figures[f'triton_{field}_ms']:.2f}" for field in ("mean", "queue", "compute"))
            lines.append(f"| {name} | {figures['count']:.0f} | {figures['triton_count']:.0f} | {times} |")
    return lines


def _title(name: str, case: dict[str, Any]) -> str:
    what = _what(name, case)
    return f"{what[0].upper()}{what[1:]}, {case['seconds']:g} s, rounds: {len(case['rounds'])}"


def _what(name: str, case: dict[str, Any]) -> str:
    return CASES[name].format(**case)


def _median(case: dict[str, Any], name: str) -> dict[str, float]:
    rounds: Sequence[dict[str, float]] = [found[name] for found in case["rounds"] if name in found]
    common = set.intersection(*(set(found) for found in rounds)) - {"finding"}
    return {field: statistics.median(found[field] for found in rounds) for field in common}


def _added_ms(case: dict[str, Any]) -> dict[str, float]:
    ours = [found["ours"] for found in case["rounds"]]
    added = {"Triton's mean": statistics.median(found["p50_ms"] - found["triton_mean_ms"] for found in ours)}
    both = [found for found in case["rounds"] if "perf_analyzer" in found]
    if both:
        added["perf_analyzer"] = statistics.median(
            found["ours"]["p50_ms"] - found["perf_analyzer"]["p50_ms"] for found in both
        )
    return added


def _ratios(ratios: dict[str, float]) -> str:
    return ", ".join(f"{name.removesuffix('_ms')} {ratio:.3f}" for name, ratio in ratios.items())


def _all_within(ratios: dict[str, float], most: float) -> bool:
    return all(abs(ratio - 1) <= most for ratio in ratios.values())
