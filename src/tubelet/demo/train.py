"""Makes the demo model: generates its clips, trains on them, writes a checkpoint in scenic's format.

``python -m tubelet.demo.train --out export/checkpoints/motion.msgpack``; about a quarter of an hour on two free
cores, with 3 GB of memory. Seeds are fixed, so the clips are the same every time; the weights are too, on the same
processor and number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tubelet.checkpoints.scenic import write_checkpoint
from tubelet.demo.clips import write_clips
from tubelet.demo.dataset import Example, draw_batch, load_examples
from tubelet.demo.evaluate import TorchEvaluation, evaluate_model
from tubelet.demo.initialise import initialise
from tubelet.demo.motion import LABELS
from tubelet.models.vivit import FactorisedEncoder
from tubelet.models.vivit_sizes import EncoderSizes, FactorisedEncoderSizes
from tubelet.spec.recipe import Recipe

__all__ = ["EVALUATION_CLIPS", "EVALUATION_SEED", "Schedule", "motion_sizes", "train"]

EVALUATION_SEED, EVALUATION_CLIPS = 1, 800
TRAIN_SEED = 0
LOG_EVERY = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How long and how fast to learn."""

    steps: int
    batch: int = 64
    peak_rate: float = 1.5e-3
    """Learning rate after the warm-up; falls to 0 along a cosine."""
    warmup_steps: int = 100
    weight_decay: float = 0.05
    max_gradient_norm: float = 1.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return self.peak_rate * warm * (1 + math.cos(math.pi * step / self.steps)) / 2


def motion_sizes(recipe: Recipe) -> FactorisedEncoderSizes:
    """Sizes of the demo network; clip and crop are the recipe's. Below 2 MB in float32."""
    return FactorisedEncoderSizes(
        num_frames=recipe.sampler.num_frames,
        tubelet_frames=4,
        crop_px=recipe.crop.size_px,
        patch_px=8,
        width=96,
        spatial=EncoderSizes(num_layers=3, num_heads=4, mlp_width=192),
        temporal=EncoderSizes(num_layers=2, num_heads=4, mlp_width=192),
        classifier="token",
        representation_width=None,
        num_classes=len(LABELS),
    )


def train(
    examples: list[Example], *, recipe: Recipe, schedule: Schedule, progress: Callable[[str], None] = lambda line: None
) -> FactorisedEncoder:
    """Trains a network from scratch on clips in memory.

    Args:
        examples: what `load_examples` gave.
        recipe: how clips are cut and normalised.
        schedule: length and rates of the training.
        progress: told every 100 steps, in one line.

    Returns:
        The network, in train mode.
    """
    torch.manual_seed(schedule.seed)
    rng = np.random.default_rng(schedule.seed)
    model = FactorisedEncoder(motion_sizes(recipe))
    initialise(model, seed=schedule.seed)
    optimizer = torch.optim.AdamW(_parameter_groups(model, schedule.weight_decay), betas=(0.9, 0.98))
    began, losses, hits = time.monotonic(), 0.0, 0.0
    for step, batch in enumerate(_batches(rng, examples, schedule)):
        clips, classes = draw_batch(rng, batch, recipe=recipe)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        logits = model(clips)
        loss = functional.cross_entropy(logits, classes)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), schedule.max_gradient_norm)
        optimizer.step()
        losses, hits = losses + loss.item(), hits + (logits.argmax(1) == classes).float().mean().item()
        if (step + 1) % LOG_EVERY == 0:
            passed = f"{time.monotonic() - began:4.0f} s"
            progress(f"step {step + 1}: loss {losses / LOG_EVERY:.3f}, top-1 {hits / LOG_EVERY:.3f}, {passed}")
            losses = hits = 0.0
    return model


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; biases, norms, positions and class tokens do not."""
    free = ("positions", "class_token")
    named = list(model.named_parameters())
    decayed = [tensor for name, tensor in named if tensor.dim() > 1 and not name.endswith(free)]
    others = [tensor for name, tensor in named if tensor.dim() <= 1 or name.endswith(free)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _batches(rng: np.random.Generator, examples: list[Example], schedule: Schedule) -> Iterator[list[Example]]:
    """Each video once per round, in a new order every round."""
    queue: list[int] = []
    for _ in range(schedule.steps):
        while len(queue) < schedule.batch:
            queue += rng.permutation(len(examples)).tolist()
        yield [examples[i] for i in queue[: schedule.batch]]
        del queue[: schedule.batch]


def _report(evaluation: TorchEvaluation) -> Iterator[str]:
    yield f"top-1 on {len(evaluation.wanted)} clips of other textures and shapes: {evaluation.top1:.4f}"
    for label, top1 in evaluation.top1_by_label().items():
        yield f"  {label:18} {top1:.3f}"


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Checkpoint to write.")
@click.option(
    "--recipe",
    "recipe_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=Path("export/recipes/motion.toml"),
    show_default=True,
)
@click.option(
    "--work", type=click.Path(file_okay=False, path_type=Path), default=Path("build/motion"), show_default=True
)
@click.option("--clips", type=click.IntRange(min=1), default=4000, show_default=True, help="Clips to train on.")
@click.option("--steps", type=click.IntRange(min=1), default=2500, show_default=True)
def main(out: Path, recipe_file: Path, work: Path, clips: int, steps: int) -> None:
    """Generates clips below WORK, trains on them, evaluates on others, and writes the checkpoint."""
    recipe = Recipe.load(recipe_file)
    began = time.monotonic()

    def say(line: str) -> None:
        click.echo(f"[{time.monotonic() - began:5.0f} s] {line}")

    say(f"rendering and encoding {clips} clips")
    table = write_clips(work / "train", split="train", seed=TRAIN_SEED, count=clips)
    say("decoding")
    examples = load_examples(table, resize=recipe.resize)
    model = train(examples, recipe=recipe, schedule=Schedule(steps=steps), progress=say)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(out, model)
    say(f"wrote {out}")
    held_out = write_clips(work / "evaluation", split="evaluation", seed=EVALUATION_SEED, count=EVALUATION_CLIPS)
    for line in _report(evaluate_model(held_out, model=model, recipe=recipe, labels=LABELS)):
        say(line)


if __name__ == "__main__":
    main()
