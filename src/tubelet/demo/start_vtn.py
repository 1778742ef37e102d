"""The start of VTN: frames whose features say what lies where, and a first temporal layer that compares them.

VTN's backbone never sees two frames. Whatever moves must be read off the features of frames, and from a random start
nothing is: 600 steps later the answers are still guesses. Here the class token of each frame begins with two gratings
of each patch, as sines and cosines; the first layer of the Longformer puts those of a later frame beside them; and its
MLP begins with the motion energy of Adelson and Bergen, "Spatiotemporal energy models for the perception of motion"
(1985), in its opponent form. Training changes every weight.

The width is divided: channels for the frame's gratings, for those of the later frame, and for the time.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from tubelet.demo.clocks import frequencies, look_ahead, time_pairs
from tubelet.demo.flow import FlowHint
from tubelet.demo.initialise import drifting_gabors, gratings
from tubelet.models.vit_image import VitImage
from tubelet.models.vtn import Vtn

__all__ = ["GRATINGS", "initialise_vtn", "vtn_hint"]

GRATINGS = 2
"""Of each patch: one answers to what moves sideways, one to what moves up or down."""
LAG = 3.0
"""Frames of the video from a frame to the one that it is compared with."""
FAINT = 0.05
"""What is left of the random start where it would drown the gratings."""
CHOICE = 9.0
"""How sure the class token is of its patches, as the logit of an attention."""
LONGFORMER_RANDOM = 0.3


def initialise_vtn(model: Vtn, *, seed: int) -> None:
    """Sets the backbone's first block and the Longformer's first layer; later layers keep torch's random start."""
    if not isinstance(model.backbone, VitImage):
        raise TypeError("the demo's backbone is a ViT")
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        _show_patches(rng, model.backbone, patch_px=model.sizes.backbone.patch_px)
        _tell_times(model)
        _compare(model)


def vtn_hint(model: Vtn) -> FlowHint:
    """Asks the frames after the first layer of the Longformer, each of all its places."""
    hint = FlowHint(
        model.temporal.layers[0],
        lambda output: output[0][:, 1:, None],
        width=model.feature_dim,
        places=1,
        grid=_grid(model),
    )
    # What a random readout gets wrong at first would undo this start.
    nn.init.zeros_(hint.readout.weight)
    return hint


def _grid(model: Vtn) -> int:
    return model.crop_px // model.sizes.backbone.patch_px


def _content(model: Vtn) -> int:
    """Channels that hold the gratings of a frame."""
    return 2 * GRATINGS * _grid(model) ** 2


def _show_patches(rng: np.random.Generator, backbone: VitImage, *, patch_px: int) -> None:
    """The class token's features: channel ``4 j + c`` is answer c of patch j."""
    width, num_patches = backbone.class_token.shape[2], backbone.positions.shape[1] - 1
    kernels = 0.1 * drifting_gabors(rng, width=width, frames=1, patch_px=patch_px)[:, :, 0]
    kernels[: 2 * GRATINGS] = gratings(GRATINGS, wavelength_px=1.1 * patch_px, patch_px=patch_px)
    backbone.embedding.weight.copy_(torch.from_numpy(kernels))
    nn.init.zeros_(backbone.embedding.bias)
    # Rows at right angles: a key can name one patch and none of the others.
    rows = np.linalg.qr(rng.normal(size=(width, num_patches)))[0].T * math.sqrt(width / 2)
    backbone.positions[0, 0] = 0
    backbone.positions[0, 1:] = torch.from_numpy(rows)
    for block in backbone.blocks:
        for linear in (block.attention.out, block.mlp[2]):
            linear.weight *= FAINT
            nn.init.zeros_(linear.bias)
    _point(backbone, rows)


def _point(backbone: VitImage, rows: np.ndarray) -> None:
    """Head j of the first block looks at patch j."""
    attention = backbone.blocks[0].attention
    num_patches, width = rows.shape
    depth = width // attention.num_heads
    attention.qkv.weight *= FAINT
    attention.qkv.bias *= FAINT
    _, key, value = attention.qkv.weight.chunk(3)
    for patch in range(num_patches):
        first = patch * depth
        attention.qkv.bias[first] = 1.0
        key[first] += CHOICE * math.sqrt(depth) * torch.from_numpy(rows[patch] / np.square(rows[patch]).sum())
        for answer in range(2 * GRATINGS):
            value[first + answer, answer] += 1
            attention.out.weight[2 * GRATINGS * patch + answer, first + answer] += 1


def _tell_times(model: Vtn) -> None:
    """Positions are pairs of sines and cosines in the last channels."""
    table = model.temporal.embedding.positions.weight
    first = 2 * _content(model)
    nn.init.zeros_(table)
    table[:-2, first:] = time_pairs(len(table) - 2, _angles(model), amplitude=1.4)


def _angles(model: Vtn) -> np.ndarray:
    return frequencies(0.15, 1.1, (model.feature_dim - 2 * _content(model)) // 2)


def _compare(model: Vtn) -> None:
    """The first layer: gratings of a later frame beside one's own, then the opponent energy of each pair."""
    layer, content = model.temporal.layers[0], _content(model)
    for linear in (layer.qkv, layer.out, layer.mlp[0], layer.mlp[2]):
        linear.weight *= LONGFORMER_RANDOM
        linear.bias *= LONGFORMER_RANDOM
    look_ahead(layer.qkv, lags=(LAG,) * layer.num_heads, first_channel=2 * content, angles=_angles(model), gain=2.0)
    channels = torch.arange(content)
    value = layer.qkv.weight.chunk(3)[2]
    value[channels, channels] += 1
    layer.out.weight[content + channels, channels] += 1
    for pair in range(content // 2):
        _opponent(layer.mlp, pair, content)


def _opponent(mlp: nn.Sequential, pair: int, content: int) -> None:
    """(a - b')^2 + (b + a')^2 - (a + b')^2 - (b - a')^2 = 4 (b a' - a b'), each square a sum of two GELUs."""
    own, later = 2 * pair, content + 2 * pair
    squares = ((own, later + 1, -1, 1), (own + 1, later, 1, 1), (own, later + 1, 1, -1), (own + 1, later, -1, -1))
    unit = 8 * pair
    for one, other, sign, weight in squares:
        for turn in (1, -1):
            mlp[0].weight[unit, one] += 1.5 * turn
            mlp[0].weight[unit, other] += 1.5 * turn * sign
            mlp[0].bias[unit] = 0
            mlp[2].weight[2 * content + pair, unit] += 1.5 * weight
            unit += 1
