"""The start of VTN: frames whose features say what lies where, and a first temporal layer that compares them.

VTN's backbone never sees two frames. Whatever moves must be read off the features of frames, and from a random start
nothing is: 600 steps later the answers are still guesses. Here the class token of each frame begins with two gratings
of each patch, as cosines and sines; the first layer of the Longformer puts those of a later frame beside them; and its
MLP begins with the opponent motion energy of Adelson and Bergen, "Spatiotemporal energy models for the perception of
motion" (1985). Training changes every weight.

The width is divided: channels for the frame's own gratings, for those of the later frame, and for the time.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tubelet.demo.clocks import frequencies, linear, look_ahead, time_pairs
from tubelet.demo.energy import oppose, put_beside
from tubelet.demo.flow import FlowHint
from tubelet.demo.initialise import drifting_gabors, gratings
from tubelet.models.vit_image import VitImage, VitImageSizes
from tubelet.models.vtn import Vtn

__all__ = ["initialise_vtn", "vtn_hint"]

GRATINGS = 2
"""Of each patch: one answers to what moves sideways, one to what moves up or down."""
ANSWERS = 2 * GRATINGS
LAG = 3.0
"""Frames of the video from a frame to the one that it is compared with."""
CHOICE = 9.0
"""How sure the class token is of its patches, as the logit of an attention."""
OTHER_KERNELS, BACKBONE_RANDOM, LONGFORMER_RANDOM = 0.1, 0.05, 0.3
"""What is left of a random start that would drown the gratings."""


def initialise_vtn(model: Vtn, *, seed: int) -> None:
    """Sets the backbone's first block and the Longformer's first layer; what is not set keeps torch's random start."""
    if not isinstance(model.backbone, VitImage) or not isinstance(model.sizes.backbone, VitImageSizes):
        raise TypeError("this start is that of a ViT backbone")
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        _show_patches(rng, model.backbone, model.sizes.backbone)
        _tell_times(model)
        _compare(model)


def vtn_hint(model: Vtn) -> FlowHint:
    """Asks the frames after the first layer of the Longformer, each of all its places."""
    return FlowHint(
        model.temporal.layers[0],
        lambda output: output[0][:, 1:, None],
        width=model.feature_dim,
        places=1,
        grid=math.isqrt(_content(model) // ANSWERS),
    )


def _content(model: Vtn) -> int:
    """Channels that hold the gratings of a frame."""
    return ANSWERS * (model.get_parameter("backbone.positions").shape[1] - 1)


def _show_patches(rng: np.random.Generator, backbone: VitImage, sizes: VitImageSizes) -> None:
    """The class token's features: channel ``4 j + c`` is answer c of patch j."""
    width, patch_px, num_patches = sizes.width, sizes.patch_px, backbone.positions.shape[1] - 1
    kernels = OTHER_KERNELS * drifting_gabors(rng, width=width, frames=1, patch_px=patch_px)[:, :, 0]
    kernels[:ANSWERS] = gratings(GRATINGS, wavelength_px=1.1 * patch_px, patch_px=patch_px)
    backbone.embedding.weight.copy_(torch.from_numpy(kernels))
    if backbone.embedding.bias is not None:
        nn.init.zeros_(backbone.embedding.bias)
    # Rows at right angles: a key can name one patch and none of the others.
    rows = np.linalg.qr(rng.normal(size=(width, num_patches)))[0].T * math.sqrt(width / 2)
    backbone.positions[0, 0] = 0
    backbone.positions[0, 1:] = torch.from_numpy(rows)
    for i in range(sizes.num_layers):
        for name in ("attention.out", "mlp.2"):
            projection = linear(backbone, f"blocks.{i}.{name}")
            projection.weight *= BACKBONE_RANDOM
            nn.init.zeros_(projection.bias)
    _point(backbone, rows, num_heads=sizes.num_heads)


def _point(backbone: VitImage, rows: NDArray[np.float64], *, num_heads: int) -> None:
    """Head j of the first block looks at patch j, and passes its answers on."""
    qkv, out = (linear(backbone, f"blocks.0.attention.{name}") for name in ("qkv", "out"))
    num_patches, width = rows.shape
    depth = width // num_heads
    qkv.weight *= BACKBONE_RANDOM
    qkv.bias.mul_(BACKBONE_RANDOM)
    _, key, value = qkv.weight.chunk(3)
    for patch in range(num_patches):
        first = patch * depth
        qkv.bias[first] = 1.0
        key[first] += CHOICE * math.sqrt(depth) * torch.from_numpy(rows[patch] / np.square(rows[patch]).sum())
        for answer in range(ANSWERS):
            value[first + answer, answer] += 1
            out.weight[ANSWERS * patch + answer, first + answer] += 1


def _tell_times(model: Vtn) -> None:
    """Positions are pairs of sines and cosines in the last channels."""
    table = model.get_parameter("temporal.embedding.positions.weight")
    nn.init.zeros_(table)
    table[:-2, 2 * _content(model) :] = time_pairs(len(table) - 2, _angles(model), amplitude=1.4)


def _angles(model: Vtn) -> NDArray[np.float64]:
    return frequencies(0.15, 1.1, (model.feature_dim - 2 * _content(model)) // 2)


def _compare(model: Vtn) -> None:
    """The first layer: gratings of a later frame beside one's own, then the opponent energy of each pair."""
    content = _content(model)
    names = ("qkv", "out", "mlp.0", "mlp.2")
    qkv, out, widen, narrow = (linear(model, f"temporal.layers.0.{name}") for name in names)
    for projection in (qkv, out, widen, narrow):
        projection.weight *= LONGFORMER_RANDOM
        projection.bias.mul_(LONGFORMER_RANDOM)
    num_heads = model.sizes.temporal.num_heads
    look_ahead(qkv, num_heads=num_heads, turns=LAG * _angles(model), first_channel=2 * content, gain=2.0)
    put_beside(qkv, out, content=content)
    oppose(widen, narrow, content=content)
