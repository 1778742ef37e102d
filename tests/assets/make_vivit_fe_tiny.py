"""Makes the tiny ViViT factorised encoder in ``vivit_fe_tiny/``: run it to write that folder anew.

Every parameter is random (NumPy's legacy generator, whose numbers never change) and none is trivial: biases,
LayerNorm scales, class tokens and positions are neither zeros nor ones. Logits are of size about 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tubelet.checkpoints.load import load_model
from tubelet.checkpoints.scenic import write_checkpoint
from tubelet.models.vivit import FactorisedEncoder, FactorisedEncoderSizes

SIZES = FactorisedEncoderSizes(
    num_frames=6,
    tubelet_frames=2,
    crop_px=16,
    patch_px=8,
    width=16,
    mlp_width=24,
    spatial_layers=2,
    spatial_heads=2,
    temporal_layers=1,
    temporal_heads=4,
    num_classes=5,
)
SEED = 2103_15691
NUM_CLIPS = 3


def make(folder: Path) -> None:
    """Writes ``checkpoint``, ``clips.npy`` uint8 `[B, T, S, S, 3]` and ``logits.npy`` float64 `[B, C]`."""
    rng = np.random.RandomState(SEED)
    state = {
        name: torch.from_numpy(_random(rng, name, tuple(tensor.shape)))
        for name, tensor in FactorisedEncoder(SIZES).state_dict().items()
    }
    write_checkpoint(folder / "checkpoint", state, SIZES)
    clips = rng.randint(0, 256, size=(NUM_CLIPS, SIZES.num_frames, SIZES.crop_px, SIZES.crop_px, 3)).astype(np.uint8)
    model = load_model(folder / "checkpoint", format="scenic", family="vivit", variant="factorised_encoder").double()
    with torch.inference_mode():
        logits = model(torch.from_numpy(clips).double() * (2 / 255) - 1)
    np.save(folder / "clips.npy", clips)
    np.save(folder / "logits.npy", logits.numpy())


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
