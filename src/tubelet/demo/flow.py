"""A hint for networks that see single frames: how the picture moves, place by place.

Nothing in a label says that two frames must be compared, and a network whose first layers see one frame at a time may
need thousands of steps to find out. So tokens of an early layer are also asked how the picture moves where they are,
which plain arithmetic on the pixels answers; what they say is forgotten after training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["FlowHint", "flow"]

_POOLED_PX = 4
"""Pixels are averaged in squares of this side first: what moves further than its own size from frame to frame has no
gradient."""
_LARGEST = 2.0
_STILL = 0.02
"""Part of a clip's variance that counts as gradient everywhere, so that even surfaces have no flow."""


def flow(clips: Tensor, *, grid: int) -> Tensor:
    """Normal flow by gradients (Horn and Schunck, "Determining optical flow", 1981), at every time but first and last.

    Args:
        clips: float `[B, T, S, S, 3]`, normalised.
        grid: g, cells along each side.

    Returns:
        float `[B, T - 2, g * g, 2]`, along x and along y, in units of pooled pixels per frame, and negative where the
        picture moves with the axis.
    """
    grey = functional.avg_pool2d(clips.mean(dim=-1), _POOLED_PX)  # [B, T, s, s]
    framed = functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    along_x = (framed[:, 1:-1, 1:-1, 2:] - framed[:, 1:-1, 1:-1, :-2]) / 2
    along_y = (framed[:, 1:-1, 2:, 1:-1] - framed[:, 1:-1, :-2, 1:-1]) / 2
    along_time = (grey[:, 2:] - grey[:, :-2]) / 2
    cell = grey.shape[-1] // grid
    strength = functional.avg_pool2d(along_x**2 + along_y**2, cell) + _STILL * grey.var(dim=(1, 2, 3), keepdim=True)
    parts = [functional.avg_pool2d(gradient * along_time, cell) / strength for gradient in (along_x, along_y)]
    return torch.stack(parts, dim=-1).clamp(-_LARGEST, _LARGEST).flatten(2, 3)


class FlowHint(nn.Module):
    """Reads the flow off the tokens of one layer.

    Tokens come as `[B, T, P, D]`: one for each cell of the grid, which tells of its own, or a single one of each
    frame, which tells of them all.
    """

    def __init__(
        self, layer: nn.Module, tokens: Callable[[Any], Tensor], *, width: int, places: int, grid: int
    ) -> None:
        super().__init__()
        self.grid = grid
        self.readout = nn.Linear(width, 2 * grid * grid // places)
        # What a random readout gets wrong at first would undo a good start.
        nn.init.zeros_(self.readout.weight)
        self._tokens: Tensor | None = None
        self._hook = layer.register_forward_hook(lambda module, inputs, output: self._keep(tokens(output)))

    def _keep(self, tokens: Tensor) -> None:
        self._tokens = tokens

    def loss(self, clips: Tensor) -> Tensor:
        """Mean square error in units of the flow's variance, after the network has seen these clips."""
        if self._tokens is None:
            raise RuntimeError("the network has seen no clips yet")
        wanted = flow(clips, grid=self.grid)
        found = self.readout(self._tokens[:, 1:-1].float()).view(wanted.shape)
        return functional.mse_loss(found, wanted) / wanted.var()

    def remove(self) -> None:
        """Leaves the network alone."""
        self._hook.remove()
        self._tokens = None
