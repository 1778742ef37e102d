"""Measures what a GPU makes of the networks, with whatever is installed; no download, no set-up, less than 8 minutes.

    PYTHONPATH=src python benchmarks/gpu.py --out benchmarks/results/gpu_NAME
    PYTHONPATH=src python benchmarks/gpu.py --device cpu --tiny --out build/gpu      # its own check, without a GPU

Writes ``OUT.json`` and ``OUT.md`` after every section. Each section is a process of its own, which is ended when its
time is over: what it has found until then stands.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GRACE_S = 10.0
"""Between the end of a section's time, which it should see itself, and its end."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A section and the time that it gets."""

    name: str
    seconds: float


PLANNED = (
    Planned("machine", 20),
    Planned("vivit_b_16x2_fe_k400", 80),
    Planned("correctness", 50),
    Planned("vivit_b_16x2_k400", 60),
    Planned("served", 60),
    Planned("vivit_l_16x2_fe_k400", 50),
    Planned("vtn_vit_b_k400", 45),
    Planned("vidtr_s_k400", 35),
    Planned("vidtr_l_k400", 45),
    Planned("onnxruntime", 120),
    Planned("tensorrt", 180),
    Planned("autotuned", 150),
)
"""In this order; what comes last goes without where the others took long."""


def run_section(arguments: argparse.Namespace) -> None:
    """The child's part: one section, in this process."""
    import gpu_sections
    import torch
    from gpu_section import Section, SkippedError

    section = Section(
        device=torch.device(arguments.device),
        tiny=arguments.tiny,
        seconds=arguments.seconds,
        part=arguments.part,
        bundle=arguments.bundle,
    )
    try:
        gpu_sections.run(arguments.section, section)
    except SkippedError as exc:
        section.save(skipped=str(exc))


class Run:
    """The parent's part: section after section, and the results."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._began = time.monotonic()
        self._results: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d"),
            "device": arguments.device,
            "tiny": arguments.tiny,
            "sections": {},
        }

    def run(self) -> int:
        """All sections; exit code 1 where one failed, or something is wrong with what a card computes."""
        chosen = [one for one in PLANNED if self._arguments.only is None or one.name in self._arguments.only]
        for planned in chosen:
            left = 60 * self._arguments.minutes - (time.monotonic() - self._began) - GRACE_S
            found = self._section(planned, min(planned.seconds, left))
            self._results["sections"][planned.name] = found
            self._save()
        print(self._arguments.out.with_suffix(".md").read_text())  # noqa: T201
        return int(any("failed" in found or found.get("ok") is False for found in self._results["sections"].values()))

    def _section(self, planned: Planned, seconds: float) -> dict[str, Any]:
        if seconds < 5:
            return {"skipped": f"the {self._arguments.minutes:g} minutes of the run were over"}
        self._say(planned.name)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="tubelet_gpu_") as folder:
            part, log = Path(folder) / "part.json", Path(folder) / "log"
            ended = self._child(planned.name, seconds, part, log)
            found: dict[str, Any] = json.loads(part.read_text()) if part.exists() else {}
            if ended is None:
                found["cut_off"] = f"after {seconds + GRACE_S:.0f} s"
            elif ended != 0:
                lines = log.read_text(errors="replace").split("\n")
                found["failed"] = next((line for line in reversed(lines) if line.strip()), f"exit code {ended}")
                print(log.read_text(errors="replace"), file=sys.stderr)  # noqa: T201
        return found | {"seconds": round(time.monotonic() - began, 1)}

    def _child(self, name: str, seconds: float, part: Path, log: Path) -> int | None:
        """Runs a section; its exit code, or None where its time was over."""
        given = self._arguments
        command: list[str | Path] = [
            sys.executable,
            __file__,
            "--section",
            name,
            "--part",
            part,
            "--seconds",
            str(seconds),
        ]
        command += ["--device", given.device, "--out", given.out, *(["--tiny"] if given.tiny else [])]
        command += ["--bundle", given.bundle] if given.bundle else []
        # A session of its own: a server that the section has started ends with it.
        with log.open("wb") as errors, subprocess.Popen(command, stderr=errors, start_new_session=True) as child:
            try:
                return child.wait(seconds + GRACE_S)
            except subprocess.TimeoutExpired:
                return None
            finally:
                _end_group(child)

    def _save(self) -> None:
        from gpu_report import goals_of, markdown

        self._results["minutes"] = round((time.monotonic() - self._began) / 60, 1)
        self._results["goals"] = goals_of(self._results)
        out: Path = self._arguments.out
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".json").write_text(json.dumps(self._results, indent=2) + "\n")
        out.with_suffix(".md").write_text(markdown(self._results))

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.0f} s  {text}", flush=True)  # noqa: T201


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Ends a section and all that it has started: politely first, since servers leave shared memory behind."""
    for number, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 1.0)):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(patience_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results, without a suffix")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu for a check of the benchmark itself")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: for a check, not for figures")
    parser.add_argument("--only", action="append", choices=[one.name for one in PLANNED], help="may be given often")
    parser.add_argument("--minutes", type=float, default=7.8, help="of all sections together")
    parser.add_argument("--bundle", type=Path, help="measure these graphs in the sections onnxruntime and tensorrt")
    for name, kind in (("section", str), ("part", Path), ("seconds", float)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.section:
        run_section(arguments)
        return 0
    return Run(arguments).run()


if __name__ == "__main__":
    sys.exit(main())
