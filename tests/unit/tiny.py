"""The tiny factorised encoder of ``tests/assets``: its files, and recipes for it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from tubelet.spec.network import VivitNetwork

TINY = Path(__file__).parents[1] / "assets" / "vivit_fe_tiny"
CHECKPOINT = TINY / "checkpoint"
MAKER = TINY.parent / "make_vivit_fe_tiny.py"
LABELS = ("up", "down", "left", "right", "still")

NETWORK = VivitNetwork(
    family="vivit",
    variant="factorised_encoder",
    classifier="token",
    attention_order=None,
    sampled_frames=None,
    num_heads=None,
)

RECIPE = """
name = "tiny"
full_video = "none"
protocols = ["1x1", "2x3", "tsn"]
default_protocol = "2x3"
aggregation = "mean_logits"
largest_batch = 8
product = "none"

[network]
family = "vivit"
variant = "factorised_encoder"
classifier = "token"
attention_order = "none"
sampled_frames = "none"
num_heads = "none"

[checkpoint]
format = "scenic"
file = "checkpoint"
sha256 = "none"
source = "tests/assets/make_vivit_fe_tiny.py"
licence = "Apache-2.0"

[sampler]
kind = "scenic"
num_frames = 6
stride = 2
target_fps = "none"
short_video = "wrap"

[resize]
kind = "scenic"
short_side_px = 20
short_side_three_crops_px = 20
kernel = "bilinear"
antialias = false
on = "uint8_truncated"

[crop]
kind = "scenic"
size_px = 16

[normalisation]
scale = 0.00784313725490196
mean = [1.0, 1.0, 1.0]
std = [1.0, 1.0, 1.0]

[[heads]]
name = "direction"
activation = "softmax"
labels = "labels.txt"

[published]
title = "Tiny ViViT FE"
paper = "arXiv:2103.15691"
code = "tests/assets/make_vivit_fe_tiny.py"
dataset = "none"
accuracy = "untrained"
aggregation_in_paper = "mean of logits"
aggregation_in_code = "mean of logits"
weights = "ours"
notes = []
"""


def recipe_data() -> dict[str, Any]:
    """The recipe as plain data."""
    return tomllib.loads(RECIPE)


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """Writes the recipe, its labels and its checkpoint into a folder; gives the recipe's path."""
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    (folder / "checkpoint").write_bytes(CHECKPOINT.read_bytes())
    path = folder / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return path
