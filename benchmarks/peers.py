"""What others would run: the network in PyTorch, eager, on frames that are decoded already."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from direct import Ready
from full_size import random_network
from torch import Tensor, nn

from tubelet.preprocess.normalise import normalise
from tubelet.spec.manifest import Contract

__all__ = ["HUGGING_FACE", "peers"]

HUGGING_FACE = ("vivit_b_16x2_k400",)
"""Recipes of networks that Hugging Face has as well, as `VivitForVideoClassification`."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Call = Callable[[], object]


def peers(name: str, contract: Contract, ready: Ready) -> dict[str, Call]:
    """Contenders by name, each on the one view of ``ready``: ``torch_fp32``; ``hf_sdpa_bf16``."""
    clip = _clip(contract, ready)
    if name in HUGGING_FACE:
        # Its class takes PyTorch's fused attention by itself; "eager" is the one that is written out.
        ways = {attention: _hugging_face(attention) for attention in ("sdpa", "eager")}
        frames = clip.permute(0, 1, 4, 2, 3).contiguous()
        return {
            f"hf_{attention}_{precision}": _call(network, dtype, frames)
            for attention, network in ways.items()
            for precision, dtype in DTYPES.items()
        }
    network = random_network(name)
    positions = torch.from_numpy(ready.feeds["CLIP_POSITIONS"]).long()
    return {f"torch_{precision}": _call(network, dtype, clip, positions) for precision, dtype in DTYPES.items()}


def _clip(contract: Contract, ready: Ready) -> Tensor:
    """The view's frames, float32 ``[1, T, S, S, 3]``."""
    units = ready.units[ready.feeds["CLIP_UNITS"][0]]
    frames = units.reshape(1, -1, *units.shape[2:])
    return torch.from_numpy(np.ascontiguousarray(normalise(contract.normalisation, frames)))


def _hugging_face(attention: str) -> nn.Module:
    from transformers import VivitConfig, VivitForVideoClassification

    torch.manual_seed(0)
    # Its defaults are the sizes of google/vivit-b-16x2-kinetics400.
    sizes: Any = VivitConfig
    return VivitForVideoClassification(sizes(num_labels=400, attn_implementation=attention)).eval()


def _call(network: nn.Module, dtype: torch.dtype, clip: Tensor, *others: Tensor) -> Call:
    network, clip = copy.deepcopy(network).to(dtype), clip.to(dtype)

    def call() -> object:
        with torch.inference_mode():
            return network(clip, *others)

    return call
