"""The start of VTN: frames whose features say what lies where, and a first temporal layer that compares them.

VTN's backbone never sees two frames. Whatever moves must be read off the features of frames, and from a random start
nothing is: 600 steps later the answers are still guesses. Here the class token of each frame begins with two gratings
of each patch, as sines and cosines; the first layer of the Longformer puts those of a later frame beside them; and its
MLP begins with sums and differences of the two, whose squares would be the motion energy of Adelson and Bergen,
"Spatiotemporal energy models for the perception of motion" (1985). Training changes every weight.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from tubelet.demo.clocks import frequencies, look_ahead, time_pairs
from tubelet.demo.flow import FlowHint
from tubelet.demo.initialise import gratings, smooth_positions
from tubelet.models.layers import SelfAttention
from tubelet.models.vit_image import VitImage
from tubelet.models.vtn import Vtn

__all__ = ["initialise_vtn", "vtn_hint"]

DIRECTIONS = 2
"""Gratings of each patch: one drifts with what moves sideways, one with what moves up or down."""
PER_PATCH = 2 * DIRECTIONS
LAG = 3.0
"""Frames of the video from a frame to the one that it is compared with."""
"""Of the kernels and projections that no grating needs; beside them others would drown it."""


def initialise_vtn(model: Vtn, *, seed: int) -> None:
    """Sets backbone and first temporal layer; what is not named here keeps torch's random start."""
    rng = np.random.default_rng(seed)
    backbone = model.backbone
