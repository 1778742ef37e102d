"""One loop that trains every demo model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from tubelet.demo.dataset import Batch, Example, draw_batch
from tubelet.demo.flow import FlowHint
from tubelet.models.network import VideoNetwork
from tubelet.spec.recipe import Recipe

__all__ = ["Schedule", "train"]

LOG_EVERY = 100

Network = TypeVar("Network", bound=VideoNetwork)


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
    hinted: float = 0.5
    """Part of the steps after which a hint no longer counts; its weight falls from 1 along a line."""
    bfloat16: bool = False
    """Whether matrices are multiplied in bfloat16, where the processor is faster at that."""
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return self.peak_rate * warm * (1 + math.cos(math.pi * step / self.steps)) / 2

    def hint_weight(self, step: int) -> float:
        """Weight of the hint's loss beside that of the classes."""
        return max(0.0, 1 - step / (self.hinted * self.steps))


def train(
    examples: list[Example],
    *,
    start: Callable[[Recipe], tuple[Network, FlowHint | None]],
    recipe: Recipe,
    schedule: Schedule,
    progress: Callable[[str], None] = lambda line: None,
) -> Network:
    """Trains a network from scratch on clips in memory.

    Args:
        examples: what `load_examples` gave.
        start: gives the network before its first step, and what it is asked besides.
        recipe: how clips are cut and normalised.
        schedule: length and rates of the training.
        progress: told every 100 steps, in one line.

    Returns:
        The network, in train mode.
    """
    torch.manual_seed(schedule.seed)
    rng = np.random.default_rng(schedule.seed)
    model, hint = start(recipe)
    optimizer = torch.optim.AdamW(_parameter_groups(model, hint, schedule.weight_decay), betas=(0.9, 0.98))
    began, losses, hits = time.monotonic(), 0.0, 0.0
    for step, videos in enumerate(_batches(rng, examples, schedule)):
        batch = draw_batch(rng, videos, recipe=recipe)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        with _fast(schedule.bfloat16):
            logits = model(batch.clips, batch.positions)
        loss = functional.cross_entropy(logits.float(), batch.classes)
        total = loss + _hinted(hint, schedule.hint_weight(step), batch)
        optimizer.zero_grad()
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(model.parameters(), schedule.max_gradient_norm)
        optimizer.step()
        losses, hits = losses + loss.item(), hits + (logits.argmax(1) == batch.classes).float().mean().item()
        if (step + 1) % LOG_EVERY == 0:
            passed = f"{time.monotonic() - began:4.0f} s"
            progress(f"step {step + 1}: loss {losses / LOG_EVERY:.3f}, top-1 {hits / LOG_EVERY:.3f}, {passed}")
            losses = hits = 0.0
    if hint is not None:
        hint.remove()
    return model


@contextmanager
def _fast(bfloat16: bool) -> Iterator[None]:
    if not bfloat16:
        yield
        return
    # torch's fused attention takes three times as long on the short sequences of these models.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


def _hinted(hint: FlowHint | None, weight: float, batch: Batch) -> Tensor | float:
    return weight * hint.loss(batch.clips) if hint is not None and weight else 0.0


def _parameter_groups(model: nn.Module, hint: nn.Module | None, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; biases, norms, positions and class tokens do not."""
    free = ("positions", "positions.weight", "types", "class_token", "class_row", "class_column")
    named = [*model.named_parameters(), *(hint.named_parameters() if hint is not None else ())]
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
