"""Measures everything that `make bench` promises, in one run, and writes JSON and tables.

    python benchmarks/run.py [--only NAME]... [--resume] [--quick] [--prepare] [--out benchmarks/results/NAME]

Bundles, repositories and videos are made in ``build/bench`` by the first run, and kept.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import decoding
import serving
import sharing
from full_size import FOLDER, full_size_bundle
from machine import GemmPeak, describe, short_name, versions
from report import goals_of, markdown
from served import serving as serve
from videos import moving_video
from views import CASES, measure_view

RESULTS = Path("benchmarks/results")
NETWORKS = tuple(dict.fromkeys(case.name for case in CASES))
SECTIONS = ("decoding", *NETWORKS, "demo")


KEPT = ("views", "decoding", "against_single_views", "against_unshared_units", "demo")
"""What sections leave in the results."""


class Run:
    """One run: what is measured, and what came out."""

    def __init__(self, *, quick: bool, out: Path, resume: bool) -> None:
        self.quick, self.out = quick, out
        self.began = time.monotonic()
        self.peak = GemmPeak()
        self.results: dict[str, Any] = {
            "machine": describe(),
            "date": time.strftime("%Y-%m-%d"),
            "versions": versions(),
        }
        self.results |= {"quick": quick, "views": {}}
        if resume and (file := out.with_suffix(".json")).exists():
            before = json.loads(file.read_text())
            self.began -= 60 * before["minutes"]
            # Every comparison is made within a section, which has its own GEMM peak.
            self.results |= {key: before[key] for key in KEPT if key in before}

    def section(self, name: str) -> None:
        """Measures one section, and saves."""
        self.say(name)
        self.peak.measure()
        sections: dict[str, Callable[[], None]] = {"decoding": self.decoding, "demo": self.demo}
        sections.get(name, lambda: self.network(name))()
        self.save()

    def network(self, name: str) -> None:
        """All that is measured with the server of one full-size network."""
        bundle = full_size_bundle(name, say=self.say)
        video = moving_video(FOLDER / "videos", seconds=10, width=320, height=240)
        many, rounds = ("2x3", 1) if self.quick else ("10x3", 2)
        with serve(bundle, precision="bf16") as server:
            for case in (case for case in CASES if case.name == name):
                self.say(f"{case.title}: one view")
                chosen = replace(case, rounds=1, warm_up=False) if self.quick else case
                found = measure_view(chosen, bundle, server, video)
                gc.collect()  # a gigabyte or two of the networks that were compared
                self.results["views"][case.key] = found | {"seconds_to_ready": round(server.seconds_to_ready, 1)}
            if name == "vivit_b_16x2_fe_k400":
                self.say(f"{many} against single views")
                found = sharing.against_single_views(name, server, video, protocol=many, rounds=rounds)
                self.results["against_single_views"] = found
            if name == "vtn_vit_b_k400":
                self.say(f"{many} against unshared units")
                found = sharing.against_unshared_units(bundle, server, video, protocol=many, rounds=rounds)
                self.results["against_unshared_units"] = found

    def decoding(self) -> None:
        """Time and memory of the sample step."""
        self.results["decoding"] = decoding.measure(rounds=1 if self.quick else 7)

    def demo(self) -> None:
        """The demo model: overhead, throughput, recovery."""
        self.results["demo"] = serving.measure_demo(rounds=10 if self.quick else 100)

    def save(self) -> None:
        """Writes what there is so far."""
        self.peak.measure()
        self.results["gemm_gflops"] = self.peak.to_json()
        self.results["minutes"] = round((time.monotonic() - self.began) / 60, 1)
        self.results["goals"] = goals_of(self.results)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.with_suffix(".json").write_text(json.dumps(self.results, indent=2) + "\n")
        self.out.with_suffix(".md").write_text(markdown(self.results))

    def say(self, text: str) -> None:
        """Tells where the run is."""
        print(f"{time.monotonic() - self.began:6.0f} s  {text}", file=sys.stderr, flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="this section; may be given often")
    parser.add_argument("--resume", action="store_true", help="keep the sections that the results hold already")
    parser.add_argument("--quick", action="store_true", help="one round of each: for development, not for figures")
    parser.add_argument("--prepare", action="store_true", help="make the bundles that are missing, and measure nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / short_name(), help="without a suffix")
    arguments = parser.parse_args()
    run = Run(quick=arguments.quick, out=arguments.out, resume=arguments.resume)
    chosen = [name for name in SECTIONS if arguments.only is None or name in arguments.only]
    for name in chosen:
        if name in NETWORKS:
            full_size_bundle(name, say=run.say)
    if arguments.prepare:
        return
    run.began = time.monotonic()
    for name in chosen:
        run.section(name)
    print(markdown(run.results))  # noqa: T201


if __name__ == "__main__":
    main()
