"""Makes the tiny ViViT factorised encoder in ``vivit_fe_tiny/``: run it to write that folder anew.

Every parameter is random (NumPy's legacy generator, whose numbers never change) and none is trivial: biases,
LayerNorm scales, class tokens and positions are neither zeros nor ones. Logits are of size about 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tubelet.checkpoints.scenic import write_checkpoint
from tubelet.models.vivit import FactorisedEncoder
from tubelet.models.vivit_sizes import EncoderSizes, FactorisedEncoderSizes

SIZES = FactorisedEncoderSizes(
    num_frames=6,
    tubelet_frames=2,
    crop_px=16,
    patch_px=8,
    width=16,
    spatial=EncoderSizes(num_layers=2, num_heads=2, mlp_width=24),
    temporal=EncoderSizes(num_layers=1, num_heads=4, mlp_width=24),
    classifier="token",
    representation_width=None,
    num_classes=5,
)
SEED = 2103_15691
NUM_CLIPS = 3


def make(folder: Path) -> None:
    """Writes ``checkpoint``, ``clips.npy`` uint8 `[B, T, S, S, 3]` and ``logits.npy`` float64 `[B, C]`."""
    rng = np.random.RandomState(SEED)
    model = FactorisedEncoder(SIZES).eval()
    randomise(model, rng)
    write_checkpoint(folder / "checkpoint", model)
    clips = rng.randint(0, 256, size=(NUM_CLIPS, SIZES.num_frames, SIZES.crop_px, SIZES.crop_px, 3)).astype(np.uint8)
    with torch.inference_mode():
        logits = model.double()(torch.from_numpy(clips).double() * (2 / 255) - 1)
    np.save(folder / "clips.npy", clips)
    np.save(folder / "logits.npy", logits.numpy())


def randomise(model: nn.Module, rng: np.random.RandomState) -> None:
    """Gives every parameter of a network random float32 numbers."""
    state = model.state_dict()
    model.load_state_dict({name: torch.from_numpy(_random(rng, name, tuple(state[name].shape))) for name in state})


def _random(rng: np.random.RandomState, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = rng.standard_normal(shape)
    if name.endswith("norm.weight"):
        values = 1 + 0.2 * values
    elif len(shape) == 1 or name.endswith(("class_token", "positions")):
        values = 0.3 * values
    else:
        values = 1.5 * values / np.sqrt(np.prod(shape[1:]))
    return values.astype(np.float32)


if __name__ == "__main__":
    make(Path(__file__).parent / "vivit_fe_tiny")
