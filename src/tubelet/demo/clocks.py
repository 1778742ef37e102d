"""A start for networks that see single frames: attention that compares each frame with one a little later.

Times are told as pairs of a sine and a cosine. Queries and keys read the same pairs, the keys turned back by a lag,
so their product is a sum of ``cos(w (t' - t - lag))``: largest where the key's time t' is the query's plus the lag.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["frequencies", "linear", "look_ahead", "time_pairs"]

OTHERS = 0.3
"""What is left of a row's random start, where a pair is read instead."""


def frequencies(lowest: float, highest: float, count: int) -> NDArray[np.float64]:
    """``count`` angles per step of time, at even ratios."""
    return np.geomspace(lowest, highest, count)


def time_pairs(count: int, angles: NDArray[np.float64], *, amplitude: float) -> Tensor:
    """Sine and cosine of each angle in turn, at times 0 to ``count - 1``: float32 `[count, 2 * angles]`."""
    turned = np.arange(count)[:, None] * angles
    pairs = np.stack([np.sin(turned), np.cos(turned)], axis=-1).reshape(count, -1)
    return torch.from_numpy(amplitude * pairs).float()


def linear(network: nn.Module, name: str) -> nn.Linear:
    """A linear map of a network by its name.

    Raises:
        TypeError: it is something else.
    """
    found = network.get_submodule(name)
    if not isinstance(found, nn.Linear):
        raise TypeError(f"{name} is no linear map")
    return found


@torch.no_grad()
def look_ahead(qkv: nn.Linear, *, num_heads: int, turns: NDArray[np.float64], first_channel: int, gain: float) -> None:
    """Turns all heads of an attention to what stands at a lag; each must have two rows for each pair.

    Args:
        qkv: the fused projection, changed in place.
        num_heads: of the attention.
        turns: of each pair, its angle times the lag.
        first_channel: where the pairs stand in the attention's input.
        gain: of queries and keys.
    """
    query, key, _ = qkv.weight.chunk(3)
    depth = len(query) // num_heads
    for head in range(num_heads):
        for i, (cosine, sine) in enumerate(zip(np.cos(turns), np.sin(turns), strict=True)):
            row, channel = head * depth + 2 * i, first_channel + 2 * i
            rows, channels = slice(row, row + 2), slice(channel, channel + 2)
            query[rows] *= OTHERS
            key[rows] *= OTHERS
            query[rows, channels] += gain * torch.eye(2)
            key[rows, channels] += gain * torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float32)
