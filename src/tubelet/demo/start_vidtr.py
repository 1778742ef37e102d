"""The start of VidTr and C-VidTr: a first layer that compares each patch with the same place in the next frame.

Patches begin as cosine and sine gratings. Positions are pairs of sines and cosines of time and place; the heads of the
first layer look at their own place one frame later, in both of their attentions, and the MLP begins with the energy of
`tubelet.demo.energy`. Training changes every weight.

The width is divided: channels for the patch's gratings, for those of the next frame, and for time and place.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tubelet.demo.clocks import frequencies, linear, look_ahead, time_pairs
from tubelet.demo.energy import oppose, put_beside
from tubelet.demo.flow import FlowHint
from tubelet.demo.initialise import drifting_gabors, gratings
from tubelet.models.vidtr import CompactVidtr, SeparableVidtr

__all__ = ["initialise_vidtr", "vidtr_hint"]

WAVELENGTHS = (0.8, 1.1, 1.5)
"""Of the gratings, in patches."""
DIRECTIONS = 6
CONTENT = 2 * DIRECTIONS * len(WAVELENGTHS)
TIME_PAIRS, AXIS_PAIRS = 6, 3
AMPLITUDE = 1.5
LAG = 1.0
"""Frames of the clip."""
OTHER_KERNELS, RANDOM = 0.1, 0.3
"""What is left of a random start that would drown the gratings."""


def initialise_vidtr(model: SeparableVidtr | CompactVidtr, *, seed: int) -> None:
    """Sets kernels, positions and the first layer; the rest keeps torch's random start."""
    sizes = model.sizes
    if sizes.width != 2 * CONTENT + 2 * (TIME_PAIRS + 2 * AXIS_PAIRS):
        raise ValueError(f"this start is that of a network of width {2 * CONTENT + 2 * (TIME_PAIRS + 2 * AXIS_PAIRS)}")
    kernels = OTHER_KERNELS * drifting_gabors(
        np.random.default_rng(seed), width=sizes.width, frames=sizes.patch_frames, patch_px=sizes.patch_px
    )
    wavelengths = [wavelength * sizes.patch_px for wavelength in WAVELENGTHS]
    still = [gratings(DIRECTIONS, wavelength_px=length, patch_px=sizes.patch_px) for length in wavelengths]
    kernels[:CONTENT] = np.concatenate(still)[:, :, None]
    with torch.no_grad():
        model.embedding.weight.copy_(torch.from_numpy(kernels))
        if model.embedding.bias is not None:
            nn.init.zeros_(model.embedding.bias)
        for name, tensor in model.named_parameters():
            if name.startswith("class_"):
                tensor.normal_(std=0.02)
        _patches(model, model.positions)[..., 2 * CONTENT :] = _times_and_places(model)
        _compare(model)


def vidtr_hint(model: SeparableVidtr | CompactVidtr) -> FlowHint:
    """Asks the patches after the first layer, each of its own place."""
    return FlowHint(
        model.blocks[0],
        lambda tokens: _patches(model, tokens),
        width=model.sizes.width,
        places=model.sizes.num_places,
        grid=_grid(model),
    )


def _times_and_places(model: SeparableVidtr | CompactVidtr) -> Tensor:
    """Positions of the patches in the last channels: `[X, Y, 2 * pairs]`."""
    grid, times = _grid(model), model.sizes.num_times
    time = time_pairs(times, _time_angles(), amplitude=AMPLITUDE)
    axis = time_pairs(grid, _axis_angles(), amplitude=AMPLITUDE)
    parts = (time[:, None, None], axis[None, :, None], axis[None, None])
    return torch.cat([part.expand(times, grid, grid, -1) for part in parts], dim=3).flatten(1, 2)


def _time_angles() -> NDArray[np.float64]:
    return frequencies(0.4, 2.5, TIME_PAIRS)


def _axis_angles() -> NDArray[np.float64]:
    return frequencies(0.6, 2.2, AXIS_PAIRS)


def _compare(model: SeparableVidtr | CompactVidtr) -> None:
    """The first layer: what the same place shows in the next frame beside what it shows now, then their energy."""
    names = ("attention.qkv", "attention.out", "mlp.0", "mlp.2")
    qkv, out, widen, narrow = (linear(model, f"blocks.0.{name}") for name in names)
    for projection in (qkv, out, widen, narrow):
        projection.weight.mul_(RANDOM)
        projection.bias.mul_(RANDOM)
    places = np.tile(_axis_angles(), 2)
    look_ahead(
        qkv,
        num_heads=model.sizes.num_heads,
        turns=np.concatenate([LAG * _time_angles(), 0 * places]),
        first_channel=2 * CONTENT,
        gain=2.0,
    )
    put_beside(qkv, out, content=CONTENT)
    oppose(widen, narrow, content=CONTENT)


def _grid(model: SeparableVidtr | CompactVidtr) -> int:
    return model.sizes.crop_px // model.sizes.patch_px


def _patches(model: SeparableVidtr | CompactVidtr, tokens: Tensor) -> Tensor:
    """The patches among the tokens: `[B, M, D]` -> a view `[B, X, Y, D]`."""
    times, places = model.sizes.num_times, model.sizes.num_places
    batch, _, width = tokens.shape
    if isinstance(model, CompactVidtr):
        return tokens[:, 1:].view(batch, times, places, width)
    return tokens.view(batch, times + 1, places + 1, width)[:, 1:, 1:]
