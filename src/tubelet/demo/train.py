"""Makes a demo model: generates its clips, trains on them, writes its checkpoint, and says what it learnt.

``python -m tubelet.demo.train vivit --out export/checkpoints/motion.msgpack`` takes about a quarter of an hour on two
free cores, with 3 GB of memory. So do the others on one core each that multiplies in bfloat16 (AVX-512):
``vtn --threads 1 --out export/checkpoints/motion_vtn.safetensors``, and likewise ``vidtr`` and ``cvidtr``; rendering
the clips, which is done once, comes on top. Seeds are fixed, so the clips are the same every time; the weights are too,
on the same processor and number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click
import torch

from tubelet.checkpoints import native, scenic
from tubelet.demo.clips import LABELS_CSV, write_clips
from tubelet.demo.dataset import load_examples, read_table
from tubelet.demo.evaluate import TorchEvaluation, evaluate_model
from tubelet.demo.models import DEMO_MODELS
from tubelet.demo.motion import LABELS
from tubelet.demo.textures import Split
from tubelet.demo.training import train
from tubelet.models.network import VideoNetwork
from tubelet.models.vivit import FactorisedEncoder
from tubelet.spec.recipe import Recipe

__all__ = ["EVALUATION_CLIPS", "EVALUATION_SEED", "save", "table_of_clips"]

EVALUATION_SEED, EVALUATION_CLIPS = 1, 800
TRAIN_SEED = 0


def table_of_clips(folder: Path, *, split: Split, seed: int, count: int) -> Path:
    """As `write_clips`, unless an earlier run has written as many: its table comes last of all."""
    table = folder / LABELS_CSV
    if table.is_file() and len(read_table(table)) == count:
        return table
    return write_clips(folder, split=split, seed=seed, count=count)


def save(path: Path, model: VideoNetwork, recipe: Recipe) -> None:
    """Writes a checkpoint in the recipe's format: scenic's for the first demo model, ours for all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if recipe.checkpoint.format == "scenic" and isinstance(model, FactorisedEncoder):
        scenic.write_checkpoint(path, model)
    else:
        native.save(path, model, recipe.network)


def _report(evaluation: TorchEvaluation) -> Iterator[str]:
    yield f"top-1 on {len(evaluation.wanted)} clips of other textures and shapes: {evaluation.top1:.4f}"
    for label, top1 in evaluation.top1_by_label().items():
        yield f"  {label:18} {top1:.3f}"


@click.command()
@click.argument("name", metavar="MODEL", type=click.Choice(list(DEMO_MODELS)))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Checkpoint to write.")
@click.option(
    "--recipes",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("export/recipes"),
    show_default=True,
    help="Folder of the demo models' recipes.",
)
@click.option(
    "--work", type=click.Path(file_okay=False, path_type=Path), default=Path("build/motion"), show_default=True
)
@click.option("--clips", type=click.IntRange(min=1), default=4000, show_default=True, help="Clips to train on.")
@click.option("--threads", type=click.IntRange(min=1), default=None, help="Of torch; one per core if left out.")
def main(name: str, out: Path, recipes: Path, work: Path, clips: int, threads: int | None) -> None:
    """Generates clips below WORK unless they are there, trains MODEL on them, and writes its checkpoint.

    MODEL is then evaluated on clips of other textures and shapes.
    """
    demo = DEMO_MODELS[name]
    recipe = Recipe.load(recipes / demo.recipe)
    began = time.monotonic()

    def say(line: str) -> None:
        click.echo(f"[{time.monotonic() - began:5.0f} s] {line}")

    say(f"rendering and encoding {clips} clips, where they are not there")
    table = table_of_clips(work / "train", split="train", seed=TRAIN_SEED, count=clips)
    say("decoding")
    examples = load_examples(table, resize=recipe.resize)
    if threads is not None:
        torch.set_num_threads(threads)
    model = train(examples, start=demo.start, recipe=recipe, schedule=demo.schedule, progress=say)
    save(out, model, recipe)
    say(f"wrote {out}")
    held_out = table_of_clips(work / "evaluation", split="evaluation", seed=EVALUATION_SEED, count=EVALUATION_CLIPS)
    for line in _report(evaluate_model(held_out, model=model, recipe=recipe, labels=LABELS)):
        say(line)


if __name__ == "__main__":
    main()
