"""Top-1 of a demo model on a labelled list, through the running server and by torch itself; they must be equal.

    tubelet serve -- python benchmarks/accuracy.py build/evaluation/labels.csv --model motion_vtn

Exit code 1 when a single answer differs, or when fewer than 95 % are right (90 % of VTN, whose backbone sees single
frames).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tubelet.clients import VideoClassifier
from tubelet.clients.evaluate import evaluate
from tubelet.demo.evaluate import evaluate_in_torch

MIN_TOP1 = {"motion": 0.95, "motion_vtn": 0.90, "motion_vidtr": 0.95, "motion_cvidtr": 0.95}
RECIPES = Path("export/recipes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--model", choices=MIN_TOP1, default="motion")
    arguments = parser.parse_args()
    answers: dict[str, str | None] = {}
    with VideoClassifier(os.environ["TUBELET_URL"], model=arguments.model) as classifier:
        served = evaluate(
            classifier,
            arguments.table,
            protocol=None,
            concurrency=4,
            on_result=lambda result: answers.update({str(result.row.video): result.predicted}),
        )
    in_torch = evaluate_in_torch(arguments.table, recipe=RECIPES / f"{arguments.model}.toml")
    differing = sum(one != other for one, other in zip(answers.values(), in_torch.found, strict=True))
    for label, share in in_torch.top1_by_label().items():
        print(f"  {label:18} {100 * share:6.2f} %")  # noqa: T201
    print(f"through the server: top-1 {100 * served.top1:.2f} %, {served.num_top1} of {served.num_rows}")  # noqa: T201
    print(f"by torch:           top-1 {100 * in_torch.top1:.2f} %; {differing} answers differ")  # noqa: T201
    return int(differing > 0 or served.top1 < MIN_TOP1[arguments.model])


if __name__ == "__main__":
    sys.exit(main())
