"""How far `tubelet loadtest` can be believed: against a null model, Triton's statistics, perf_analyzer, and a pause.

    python benchmarks/trust.py [--rounds 3] [--quick] [--only rate|comparison|pause] [--out loadtest/reports]

Takes about twenty minutes, in which nothing else should run, and writes ``trust.json`` and ``trust.md``. Wants
`make repository` first. perf_analyzer is fetched from the registry of pip; where it cannot be had, the record says so.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from generators import Found, Load, run_ours, scenario_text
from null_server import MODEL, NullServer, null_serving
from perf_analyzer import PerfAnalyzer, fetch_perf_analyzer
from served import serving
from trust_report import render

from tubelet.demo.clips import write_clips
from tubelet.loadtest.machine import describe_machine
from tubelet.preprocess.canary import canary_video

SCRATCH = Path("build/trust")
BUNDLE = Path("bundles/motion")
NUM_CLIPS = 32
PAUSE_S = 2.0
LEAST_AROUND_PAUSE_S = 10.0
DELAY_MS = 200.0
"""So long that gRPC and the wire, of which Triton's statistics know nothing, are less than one percent of it."""
SLEEPERS = 8
"""Instances of the null model with a delay: more than mostly sleep at the same time."""
QUICK = {"rounds": 1, "seconds": 4.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Both generators, and how long they are looked at."""

    perf: PerfAnalyzer | None
    rounds: int
    seconds: float | None
    """Of every run; None: as each section wants it."""

    def in_turns(self, load: Load, url: str, metrics: str) -> dict[str, Any]:
        """Both, once a round, each round beginning with the other one."""
        load = replace(load, seconds=self.seconds or load.seconds)
        rounds: list[dict[str, Found]] = []
        failures: list[str] = []
        for number in range(self.rounds):
            found: dict[str, Found] = {}
            for name in ("ours", "perf_analyzer") if number % 2 == 0 else ("perf_analyzer", "ours"):
                if name == "ours":
                    found[name] = run_ours(load, url, metrics, SCRATCH)
                elif self.perf is not None:
                    try:
                        found[name] = self.perf.run(load, url, SCRATCH)
                    except RuntimeError as exc:
                        failures.append(f"round {number + 1}: {exc}")
            say(
                f"{load.name}, round {number + 1}: "
                + ", ".join(f"{who} p50 {it.p50_ms:.2f} ms" for who, it in found.items())
            )
            rounds.append(found)
        return self.record(load, url, metrics) | {
            "rounds": [_plain(found) for found in rounds],
            "failures": failures,
        }

    def record(self, load: Load, url: str, metrics: str) -> dict[str, Any]:
        """What was run."""
        command = None if self.perf is None else shlex.join(self.perf.command(load, url, SCRATCH / "input.json"))
        scenario = scenario_text(load, url, metrics)
        return {"seconds": load.seconds, "rate": load.rate, "callers": load.callers} | {
            "scenario": scenario,
            "perf_analyzer_command": command,
        }


def measure_rate(bench: Bench) -> dict[str, Any]:
    """2,000 requests a second against a model that does nothing, over both protocols; over gRPC also half of that."""
    found: dict[str, Any] = {}
    null = Load(name="", model=MODEL, videos=null_videos(), seconds=20.0)
    with null_serving(instances=3) as server:
        for protocol, url, rate in (
            ("http", server.http, 2000),
            ("grpc", server.grpc, 2000),
            ("grpc", server.grpc, 1000),
        ):
            load = replace(null, name=f"null_{rate}_{protocol}", rate=float(rate))
            found[load.name] = bench.in_turns(load, url, server.metrics)
    return found


def measure_comparison(bench: Bench) -> dict[str, Any]:
    """The same loads by both, on the null model and on a real one."""
    found: dict[str, Any] = {}
    null = Load(name="", model=MODEL, videos=null_videos(), seconds=20.0)
    with null_serving() as server:
        load = replace(null, name="null_open", rate=200.0)
        found[load.name] = bench.in_turns(load, server.grpc, server.metrics)
    with null_serving(delay_ms=DELAY_MS, instances=SLEEPERS) as server:
        asleep = replace(null, seconds=30.0)
        for load in (
            replace(asleep, name="null_asleep_open", rate=20.0),
            replace(asleep, name="null_asleep_closed", callers=4),
        ):
            found[load.name] = bench.in_turns(load, server.grpc, server.metrics)
    with serving(BUNDLE, precision="fp32") as demo, demo.undisturbed():
        real = replace(null, model=BUNDLE.name, videos=demo_clips(), seconds=30.0)
        for load in (replace(real, name="motion_open", rate=40.0), replace(real, name="motion_closed", callers=4)):
            found[load.name] = bench.in_turns(load, demo.addresses["grpc"], demo.addresses["metrics"])
    return found


def measure_pause(bench: Bench) -> dict[str, Any]:
    """A server that stands still for two seconds, in the middle of a steady load."""
    seconds = max(bench.seconds or 20.0, LEAST_AROUND_PAUSE_S)
    load = Load(name="null_paused", model=MODEL, videos=null_videos(), rate=200.0, seconds=seconds)
    waiting, after = replace(load, threads=16), round(load.rate * seconds / 2)
    failures: dict[str, str] = {}
    with null_serving() as server:
        with pausing(server, after=after):
            found = {"ours": run_ours(load, server.grpc, server.metrics, SCRATCH)}
        say(f"paused: p99.9 {found['ours'].p999_ms} ms")
        if bench.perf is not None:
            for name, theirs in (("perf_analyzer --async", load), ("perf_analyzer --sync", waiting)):
                try:
                    with pausing(server, after=after):
                        found[name] = bench.perf.run(theirs, server.grpc, SCRATCH, each_request=True)
                except RuntimeError as exc:
                    failures[name] = str(exc)
                    say(f"{name}: {exc}")
        return bench.record(load, server.grpc, server.metrics) | {
            "pause_s": PAUSE_S,
            "found": _plain(found),
            "failures": failures,
        }


@contextmanager
def pausing(server: NullServer, *, after: int):
    """Pauses the server, once, when it has answered so many requests more.

    Raises:
        RuntimeError: the block has ended before.
    """
    until, gone, paused = answered(server) + after, threading.Event(), threading.Event()

    def pause() -> None:
        while not gone.wait(0.05):
            if answered(server) >= until:
                with server.paused():
                    time.sleep(PAUSE_S)
                paused.set()
                return

    thread = threading.Thread(target=pause)
    thread.start()
    try:
        yield
    finally:
        gone.set()
        thread.join()
    if not paused.is_set():
        raise RuntimeError(f"fewer than {after} answers came: the server was never paused")


def answered(server: NullServer) -> int:
    """Requests that the null model has answered since its start."""
    with urlopen(server.metrics) as answer:
        lines = answer.read().decode().splitlines()
    wanted = f'nv_inference_request_success{{model="{MODEL}"'
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(wanted))


def null_videos() -> Path:
    """One tiny video: nobody decodes it."""
    folder = SCRATCH / "null"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "canary.mp4").write_bytes(canary_video())
    return folder


def demo_clips() -> Path:
    """Generated clips, as the demo models know them."""
    folder = SCRATCH / "clips"
    if not folder.exists():
        write_clips(SCRATCH / "written", split="evaluation", seed=12, count=NUM_CLIPS, workers=2)
        folder.mkdir()
        for path in (SCRATCH / "written").glob("*.mp4"):
            path.rename(folder / path.name)
    return folder


def say(text: str) -> None:
    """Tells where the run is."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _plain(found: dict[str, Found]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in asdict(one).items() if value is not None} for name, one in found.items()
    }


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "rate": measure_rate,
    "comparison": measure_comparison,
    "pause": measure_pause,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="one short round of each: to try a change, not for figures"
    )
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, help="may be given often; the record has no others"
    )
    parser.add_argument("--out", type=Path, default=Path("loadtest/reports"))
    arguments = parser.parse_args()
    SCRATCH.mkdir(parents=True, exist_ok=True)
    place = arguments.out / "trust.json"
    record: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": asdict(describe_machine())}
    record |= {"command": shlex.join(["python", *sys.argv]), "perf_analyzer": "", "why_not": ""}
    record["failures"] = {}
    perf = None
    try:
        perf = fetch_perf_analyzer()
        record["perf_analyzer"] = perf.version
    except RuntimeError as exc:
        record["why_not"] = str(exc)
        say(f"without perf_analyzer: {exc}")
    rounds, seconds = (QUICK["rounds"], QUICK["seconds"]) if arguments.quick else (arguments.rounds, None)
    bench = Bench(perf=perf, rounds=int(rounds), seconds=seconds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only or SECTIONS:
        try:
            record[name] = SECTIONS[name](bench)
        except RuntimeError as exc:
            record["failures"][name] = str(exc)
            say(f"{name}: {exc}")
        save(record, place)
    print(render(record))  # noqa: T201
    sys.exit(1 if record["failures"] else 0)


def save(record: dict[str, Any], place: Path) -> None:
    """Writes what there is: after every section, so that a later one cannot lose it."""
    place.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    place.with_suffix(".md").write_text(render(record), encoding="utf-8")


if __name__ == "__main__":
    main()
