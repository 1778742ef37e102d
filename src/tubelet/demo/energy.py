"""A start from which an attention and an MLP compute the motion energy of gratings.

The opponent energy of Adelson and Bergen, "Spatiotemporal energy models for the perception of motion" (1985): what a
cosine and a sine grating answer is a and b now, a' and b' a little later; ``b a' - a b'`` is above 0 where the picture
moves one way, and below where it moves the other.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["oppose", "put_beside"]

GAIN = 1.5


@torch.no_grad()
def put_beside(qkv: nn.Linear, out: nn.Linear, *, content: int) -> None:
    """Puts the first ``content`` channels of the token that is looked at into as many channels after one's own."""
    channels = torch.arange(content)
    qkv.weight.chunk(3)[2][channels, channels] += 1
    out.weight[content + channels, channels] += 1


@torch.no_grad()
def oppose(widen: nn.Linear, narrow: nn.Linear, *, content: int) -> None:
    """Opponent energies of ``content / 2`` pairs, in the channels that follow those of `put_beside`.

    (a - b')^2 + (b + a')^2 - (a + b')^2 - (b - a')^2 = 4 (b a' - a b'), where each square is made of two units of the
    MLP that look at it from both sides.

    Args:
        widen: the MLP's first map; it must have four units for each channel.
        narrow: its second map.
        content: channels that hold pairs.
    """
    unit = 0
    for own in range(0, content, 2):
        later = content + own
        for one, other, sign, weight in (
            (own, later + 1, -1, 1),
            (own + 1, later, 1, 1),
            (own, later + 1, 1, -1),
            (own + 1, later, -1, -1),
        ):
            for turn in (1, -1):
                widen.weight[unit, one] += GAIN * turn
                widen.weight[unit, other] += GAIN * turn * sign
                widen.bias[unit] = 0
                narrow.weight[2 * content + own // 2, unit] += GAIN * weight
                unit += 1
