"""The start of VidTr and C-VidTr: kernels like those of the first demo model, and a first layer that knows the time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tubelet.demo.clocks import frequencies, linear, look_ahead, time_pairs
from tubelet.demo.flow import FlowHint
from tubelet.demo.initialise import drifting_gabors, smooth_positions
from tubelet.models.vidtr import CompactVidtr, SeparableVidtr

__all__ = ["initialise_vidtr", "vidtr_hint"]

LAGS = (-1, 1, -2, 2)
"""Frames of the clip from a frame to the one that each head of the first layer looks at."""
TIME_AMPLITUDE, PLACE_AMPLITUDE = 1.5, 1.0
SHARPER = 2.0
"""Random queries and keys times this: otherwise the first attentions are nearly even."""
HINTED_BLOCK = 1


def initialise_vidtr(model: SeparableVidtr | CompactVidtr, *, seed: int) -> None:
    """Sets kernels, positions and the first layer's queries and keys; the rest keeps torch's random start."""
    rng = np.random.default_rng(seed)
    sizes = model.sizes
    width = sizes.width
    pairs = width // sizes.num_heads // 2
    angles = frequencies(0.2, 2.2, pairs)
    with torch.no_grad():
        kernels = drifting_gabors(rng, width=width, frames=sizes.patch_frames, patch_px=sizes.patch_px)
        model.embedding.weight.copy_(torch.from_numpy(kernels))
        if model.embedding.bias is not None:
            nn.init.zeros_(model.embedding.bias)
        times = time_pairs(sizes.num_times, angles, amplitude=TIME_AMPLITUDE)
        places = smooth_positions(rng, width=width - 2 * pairs, grid=_grid(model), amplitude=PLACE_AMPLITUDE)
        by_time = times[:, None].expand(-1, sizes.num_places, -1)
        by_place = torch.from_numpy(places).expand(sizes.num_times, -1, -1)
        _patches(model, model.positions).copy_(torch.cat([by_time, by_place], dim=2)[None])
        for i in range(sizes.num_layers):
            linear(model, f"blocks.{i}.attention.qkv").weight[: 2 * width] *= SHARPER
        for name, tensor in model.named_parameters():
            if name.startswith("class_"):
                tensor.normal_(std=0.02)
    look_ahead(linear(model, "blocks.0.attention.qkv"), lags=LAGS, first_channel=0, angles=angles, gain=1.0)


def vidtr_hint(model: SeparableVidtr | CompactVidtr) -> FlowHint:
    """Asks the patches after the second layer, each of its own place."""
    return FlowHint(
        model.blocks[HINTED_BLOCK],
        lambda tokens: _patches(model, tokens),
        width=model.sizes.width,
        places=model.sizes.num_places,
        grid=_grid(model),
    )


def _grid(model: SeparableVidtr | CompactVidtr) -> int:
    return model.sizes.crop_px // model.sizes.patch_px


def _patches(model: SeparableVidtr | CompactVidtr, tokens: Tensor) -> Tensor:
    """The patches among the tokens: `[B, M, D]` -> a view `[B, X, Y, D]`."""
    times, places = model.sizes.num_times, model.sizes.num_places
    batch, _, width = tokens.shape
    if isinstance(model, CompactVidtr):
        return tokens[:, 1:].view(batch, times, places, width)
    return tokens.view(batch, times + 1, places + 1, width)[:, 1:, 1:]
