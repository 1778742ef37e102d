"""Top-1 of a demo model on a labelled list, through the running server and by torch itself; they must be equal.

    tubelet serve -- python benchmarks/accuracy.py build/evaluation/labels.csv --model motion_vtn

Exit code 1 when a single answer differs, or when fewer than 95 % are right (90 % of VTN, whose backbone sees single
frames).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tubelet.demo.evaluate import evaluate_in_torch
from tubelet.evaluation.formats import read_list
from tubelet.evaluation.measure import head_ranking
from tubelet.evaluation.outcome import load_outcome
from tubelet.evaluation.run import evaluate

MIN_TOP1 = {"motion": 0.95, "motion_vtn": 0.90, "motion_vidtr": 0.95, "motion_cvidtr": 0.95}
RECIPES = Path("export/recipes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", choices=MIN_TOP1, default="motion")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        evaluate(read_list(arguments.table), folder, urls=[os.environ["TUBELET_URL"]], model=arguments.model)
        outcome = load_outcome(folder)
    ranking = head_ranking(outcome, 0)
    names = outcome.labelled.heads[0].names
    served = [names[found] if found >= 0 else None for found in ranking.found]
    top1 = float((ranking.rank == 0).mean())
    in_torch = evaluate_in_torch(arguments.table, recipe=RECIPES / f"{arguments.model}.toml")
    differing = sum(one != other for one, other in zip(served, in_torch.found, strict=True))
    for label, share in in_torch.top1_by_label().items():
        print(f"  {label:18} {100 * share:6.2f} %")  # noqa: T201
    print(f"through the server: top-1 {100 * top1:.2f} %, {(ranking.rank == 0).sum()} of {len(served)}")  # noqa: T201
    print(f"by torch:           top-1 {100 * in_torch.top1:.2f} %; {differing} answers differ")  # noqa: T201
    return int(differing > 0 or top1 < MIN_TOP1[arguments.model])


if __name__ == "__main__":
    sys.exit(main())
