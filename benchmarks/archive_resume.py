"""How long `tubelet score` takes to find out that a million videos are done, and what memory that needs.

::

    python benchmarks/archive_resume.py [--rows 1000000] [--folder DIR] [--out FILE.json]

Fills an output folder through the ledger's own interface, then resumes in fresh processes, from a list as CSV and from
one as Parquet: opens ledger and list, and asks for what is unfinished until the list ends. `total_s` is all of a
process but the start of Python and its imports, which `imports_s` has; `processor_s` is what it worked of that, which a
busy machine stretches less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_RUN: dict[str, Any] = {
    "model": "vivit",
    "protocol": "4x3",
    "contract_digest": "sha256:0",
    "top": 5,
    "keeps_logits": False,
}
_ADDED_AT_A_TIME = 500


def main() -> None:
    """Measures, prints, and writes the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="scratch; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--resume", metavar="LIST", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.resume:
        print(json.dumps(resume(arguments.folder, arguments.resume)))  # noqa: T201
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        figures = measure(Path(scratch), arguments.rows)
    print(json.dumps(figures, indent=1))  # noqa: T201
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


def measure(scratch: Path, rows: int) -> dict[str, Any]:
    """Builds, then resumes in a process for each kind of list."""
    from machine import describe

    began = time.perf_counter()
    build(scratch / "out", rows)
    figures: dict[str, Any] = {"machine": describe(), "rows": rows, "build_s": round(time.perf_counter() - began, 1)}
    files = list((scratch / "out").iterdir())
    figures["ledger_mib"] = mib(sum(path.stat().st_size for path in files if path.name.startswith("ledger")))
    figures["parts_mib"] = mib(sum(path.stat().st_size for path in files if path.suffix == ".parquet"))
    figures["build_peak_rss_mib"] = peak_rss_mib()
    for kind, path in write_lists(scratch, rows).items():
        command = [sys.executable, __file__, "--folder", str(scratch / "out"), "--resume", str(path)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures[kind] = json.loads(answer.stdout)
    return figures


def build(out: Path, count: int) -> None:
    """Fills ``out`` with ``count`` rows of five labels each."""
    from tubelet.archive.ledger import Ledger
    from tubelet.archive.rows import Run

    with Ledger.open(out, Run(**_RUN)) as ledger:
        waiting = []
        for row in made_rows(count):
            waiting.append(row)
            if len(waiting) == _ADDED_AT_A_TIME:
                ledger.add(waiting)
                waiting.clear()
        ledger.add(waiting)
        ledger.flush()


def made_rows(count: int) -> Iterator[Any]:
    """Rows such as a run writes them."""
    from tubelet.archive.items import Item
    from tubelet.archive.rows import Row
    from tubelet.clients import Label

    for number in range(count):
        labels = tuple(
            Label(name=f"class {(number + k) % 400}", index=(number + k) % 400, probability=0.5**k) for k in range(5)
        )
        yield Row(
            item=Item(address(number)),
            content_sha256=f"{number * 0x9E3779B97F4A7C15 % 2**64:064x}",
            size_bytes=1_000_000 + number,
            started_s=1.8e9 + number,
            finished_s=1.8e9 + number + 0.5,
            server_ms=400.0,
            duration_s=10.0,
            frames_decoded=250,
            views=12,
            labels=labels,
        )


def address(number: int) -> str:
    """A path as long as those of Kinetics."""
    return f"/data/kinetics400/validation/{number % 400:03d}/{number:011d}_000010_000020.mp4"


def write_lists(scratch: Path, rows: int) -> dict[str, Path]:
    """The same videos as CSV and as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = {"csv": scratch / "list.csv", "parquet": scratch / "list.parquet"}
    with paths["csv"].open("w") as file:
        file.write("uri\n")
        file.writelines(f"{address(number)}\n" for number in range(rows))
    pq.write_table(pa.table({"uri": [address(number) for number in range(rows)]}), paths["parquet"])
    return paths


def resume(out: Path, listed: str) -> dict[str, Any]:
    """What a second `tubelet score` does before its first request."""
    began = time.perf_counter()
    from tubelet.archive.ledger import Ledger
    from tubelet.archive.rows import Run
    from tubelet.archive.sources import open_source

    imported = time.perf_counter()
    rss_before, processor_before = peak_rss_mib(), time.process_time()
    source = open_source(listed)
    count = source.count()
    with Ledger.open(out, Run(**_RUN)) as ledger:
        opened = time.perf_counter()
        left = sum(1 for _ in ledger.unfinished(source.items()))
        ended = time.perf_counter()
    return {
        "listed": count,
        "left": left,
        "imports_s": round(imported - began, 2),
        "open_s": round(opened - imported, 2),
        "total_s": round(ended - imported, 2),
        "processor_s": round(time.process_time() - processor_before, 2),
        "rss_before_mib": rss_before,
        "peak_rss_mib": peak_rss_mib(),
    }


def mib(size: int) -> float:
    """Bytes as MiB."""
    return round(size / 2**20, 1)


def peak_rss_mib() -> float:
    """Of this process so far; `getrusage` would count what its parent had when it was started."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024, 1)


if __name__ == "__main__":
    main()
