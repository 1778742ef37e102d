"""An encoder at fp16 or bf16, and two rewritings that GPUs like better; what is computed stays the same.

As in the graphs that the project exports for GPUs, pixels are normalised in float32, and the statistics of LayerNorm
and softmax are float32: PyTorch's kernels for both keep them so whatever the tensors are.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tubelet.export.graphs import EncodeUnits
from tubelet.models.network import TwoStageVideoNetwork, VideoNetwork
from tubelet.spec.pipeline import Normalisation

__all__ = ["DTYPES", "LoweredEncoder", "lower", "patch_product"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class LoweredEncoder(nn.Module):
    """`tubelet.export.graphs.EncodeUnits`, whose network computes in another type."""

    factor: Tensor
    shift: Tensor

    def __init__(self, network: VideoNetwork, normalisation: Normalisation, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype
        device = next(network.parameters()).device
        mean, std = (torch.tensor(numbers, device=device) for numbers in (normalisation.mean, normalisation.std))
        # (x * scale - mean) / std, in two passes over the pixels and not in three.
        self.register_buffer("factor", normalisation.scale / std, persistent=False)
        self.register_buffer("shift", mean / std, persistent=False)

    def forward(self, units: Tensor) -> Tensor:
        """uint8 `[u, t, S, S, 3]` -> FEATURES float32 `[u, D]`, or LOGITS `[u, C]` of a joint network."""
        pixels = (units * self.factor - self.shift).to(self.dtype)
        network = self.network
        encoded = network.encode(pixels) if isinstance(network, TwoStageVideoNetwork) else network(pixels)
        return encoded.float()


def lower(
    network: VideoNetwork, normalisation: Normalisation, precision: str, *, rewritten: bool
) -> EncodeUnits | LoweredEncoder:
    """The encoder of a copy of a network at a precision.

    Args:
        network: float32; it is left as it is.
        normalisation: of the contract.
        precision: a key of `DTYPES`.
        rewritten: whether patches are embedded by a matrix product, and activations computed where their product ends.
    """
    network = copy.deepcopy(network)
    if precision == "fp32" and not rewritten:
        return EncodeUnits(network, normalisation).to(next(network.parameters()).device).eval()
    encoder = LoweredEncoder(network.to(DTYPES[precision]), normalisation, DTYPES[precision]).eval()
    if rewritten:
        _rewrite(network)
    return encoder


def _rewrite(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and _cuts_patches(module):
            memory_format = torch.channels_last if module.weight.ndim == 4 else torch.channels_last_3d
            module.weight.data = module.weight.data.contiguous(memory_format=memory_format)
            # What `forward` of a convolution calls, its subclasses' too.
            module._conv_forward = patch_product  # type: ignore[method-assign, assignment]
        for name, child in module.named_children():
            if (use_gelu := _fusible(child)) is not None:
                setattr(module, name, _FusedMlp(child, use_gelu=use_gelu))


def _cuts_patches(module: nn.Conv2d | nn.Conv3d) -> bool:
    plain = module.groups == 1 and not any(module.padding) and set(module.dilation) == {1}
    return plain and module.kernel_size == module.stride and min(module.kernel_size[-2:]) > 1


def patch_product(pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution whose windows do not overlap, as one matrix product.

    Args:
        pixels: `[B, 3, T, S, S]` or `[B, 3, S, S]`; fast where the channels lie last in memory.
        weight: `[D, 3, t, p, p]` or `[D, 3, p, p]`.
        bias: `[D]`.

    Returns:
        `[B, D, n, h, w]` or `[B, D, h, w]`, a view of memory whose last axis is D.
    """
    kernel = weight.shape[2:]
    counts = [length // step for length, step in zip(pixels.shape[2:], kernel, strict=True)]
    axes = len(kernel)
    split = [length for pair in zip(counts, kernel, strict=True) for length in pair]
    windows = pixels.movedim(1, -1).reshape(pixels.shape[0], *split, pixels.shape[1])  # [B, n, t, h, p, w, p, 3]
    order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1]
    rows = windows.permute(order).reshape(pixels.shape[0] * math.prod(counts), -1)
    tokens = functional.linear(rows, weight.movedim(1, -1).reshape(weight.shape[0], -1), bias)
    return tokens.view(pixels.shape[0], *counts, weight.shape[0]).movedim(-1, 1)


def _fusible(module: nn.Module) -> bool | None:
    """Whether an MLP's activation is the GELU that cuBLAS computes, or ReLU; None: it is no such MLP."""
    match list(module.children()) if isinstance(module, nn.Sequential) else []:
        case [nn.Linear(), nn.GELU(approximate="tanh"), nn.Linear()]:
            return True
        case [nn.Linear(), nn.ReLU(), nn.Linear()]:
            return False
        case _:
            return None


class _FusedMlp(nn.Module):
    """Two linear maps; the activation between them is computed while the first one's product is still in registers.

    By PyTorch's operator for the fast path of its own encoder layers, ``aten::_addmm_activation``: its GELU is the tanh
    form on a GPU (``aten/src/ATen/native/cuda/Blas.cpp``), and the exact one on a processor, which is not what we want.
    """

    def __init__(self, mlp: Any, *, use_gelu: bool) -> None:
        super().__init__()
        self.first, self.last, self.use_gelu = mlp[0], mlp[2], use_gelu

    def forward(self, tokens: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]`."""
        rows = tokens.flatten(0, -2)
        if self.use_gelu and not tokens.is_cuda:
            hidden = functional.gelu(self.first(rows), approximate="tanh")
        else:
            hidden = torch._addmm_activation(self.first.bias, rows, self.first.weight.t(), use_gelu=self.use_gelu)
        widened: Tensor = self.last(hidden).view(tokens.shape)
        return widened
