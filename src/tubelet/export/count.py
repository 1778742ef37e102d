"""How large a network is and what it costs: parameters, and multiply-adds of one view.

Nothing is computed: the network is built and run on PyTorch's meta device, which knows shapes only. A multiply-add
(MAC) counts as one, as in the papers, which call it a FLOP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from tubelet.models.network import VideoNetwork

__all__ = ["Macs", "count_macs", "count_parameters", "count_run", "on_meta"]

_LAYERS = frozenset({F.linear, F.conv1d, F.conv2d, F.conv3d})


@dataclass(frozen=True, kw_only=True, slots=True)
class Macs:
    """Multiply-adds of one run."""

    layers: dict[str, int]
    """Of linear and convolution layers, by the name of their weight."""
    products: int
    """Of everything else, which is the products of attention: queries with keys, and their softmax with values."""

    @property
    def layers_only(self) -> int:
        """What counters see that know modules of PyTorch, and not the products of an attention written out."""
        return sum(self.layers.values())

    @property
    def total(self) -> int:
        return self.layers_only + self.products


def on_meta(build: Callable[[], VideoNetwork]) -> VideoNetwork:
    """Builds a network without memory for its weights, in eval mode."""
    with torch.device("meta"):
        return build().eval()


def count_parameters(network: nn.Module) -> int:
    """Trained numbers of a network; buffers are none."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: VideoNetwork, *, num_frames: int | None = None) -> Macs:
    """Multiply-adds of a network for one view.

    Args:
        network: on the meta device, see `on_meta`.
        num_frames: T, frames of the view; None: as the network was built. Others fit where it takes any length.
    """
    frames, side = network.num_frames if num_frames is None else num_frames, network.crop_px
    clip = torch.empty(1, frames, side, side, 3, device="meta")
    n = frames // network.unit_frames
    positions = torch.empty(1, n, dtype=torch.int64, device="meta")
    return count_run(network, lambda: network(clip, positions))


def count_run(network: nn.Module, run: Callable[[], Tensor]) -> Macs:
    """Multiply-adds of whatever ``run`` does with a network or a part of it.

    Args:
        network: whose weights ``run`` uses.
        run: on tensors of the meta device.
    """
    layers = _LayerCounter(network)
    with torch.no_grad(), FlopCounterMode(display=False) as everything, layers:
        run()
    # PyTorch counts a multiply-add as two.
    total = everything.get_total_flops() // 2
    return Macs(layers=layers.counted, products=total - sum(layers.counted.values()))


class _LayerCounter(TorchFunctionMode):
    """Notes every linear map and convolution by a weight; products of two activations are neither."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.counted: dict[str, int] = {}
        self._names = {id(parameter): name for name, parameter in network.named_parameters()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Counts one call: each number that comes out took as many multiply-adds as a row of the weight is long."""
        result = func(*args, **(kwargs or {}))
        if func in _LAYERS:
            weight = args[1]
            # A part of a weight is a view of it.
            name = self._names[id(weight if weight._base is None else weight._base)]
            self.counted[name] = self.counted.get(name, 0) + result.numel() * weight[0].numel()
        return result
