"""An image model's weights as a start for training a ViViT (arXiv:2103.15691, section 3.4).

The image model is a ViT or a DeiT by timm's names (``timm/models/vision_transformer.py``). Rules are those of the paper
and of ``initialise_from_train_state`` in scenic's ``model_utils.py``; nothing of this is needed to serve a trained
network. timm's GELU is the exact one and ViViT's the tanh form: they differ by up to 4.7e-4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tubelet.checkpoints.mapping import Parameters, Row, shape_of, to_state
from tubelet.models.layers import Encoder
from tubelet.models.vivit import FactorisedEncoder, JointVivit
from tubelet.models.vivit_attention import FactorisedSelfAttentionBlock
from tubelet.spec.errors import RecipeError

__all__ = ["ImageStart", "KernelInflation", "TimeAttention", "inflate"]

KernelInflation = Literal["average", "central_frame"]
"""A patch's kernel is spread evenly over a tubelet's frames (eq. 8), or put at its middle frame (eq. 9)."""

TimeAttention = Literal["zero", "zero_output"]
"""What of Model 3's temporal attention is zero, so that it adds nothing at the start. ``zero``: all of it, as the paper
says; but then gradients reach its last bias and nothing else. ``zero_output``: its output projection; the rest is the
image model's, and learns."""

POSITIONS, KERNEL, CLASS_TOKEN, DISTILLATION_TOKEN = "pos_embed", "patch_embed.proj.weight", "cls_token", "dist_token"
_CLASSIFIER = ("head.", "head_dist.", "pre_logits.", DISTILLATION_TOKEN)
"""Of image classes, or of DeiT's teacher: nothing that a video model has."""


@dataclass(frozen=True, slots=True)
class ImageStart:
    """What an image model gives to a ViViT, and what it cannot give."""

    tensors: dict[str, Tensor]
    """By the names of the network's state dict, float32."""
    missing: tuple[str, ...]
    """The other names of the state dict: classifier, and temporal encoder. Whoever trains must initialise them."""


def inflate(
    image: Parameters,
    network: JointVivit | FactorisedEncoder,
    *,
    kernel: KernelInflation,
    time_attention: TimeAttention = "zero",
) -> ImageStart:
    """Makes the start of a ViViT out of an image model; of a factorised encoder, that of its spatial encoder.

    Positions are those of the image for every temporal index, resized first where the grid differs. The image model
    must have the same width, layers, MLP and patches, and (which no shape shows) as many heads.

    Args:
        image: state dict of a ViT or DeiT by timm's names.
        network: whose sizes count; its values are not read.
        kernel: how the kernel of a patch becomes that of a tubelet; without meaning for uniformly sampled frames.
        time_attention: for Model 3 alone.

    Raises:
        RecipeError: ``bad_checkpoint``, naming the tensors that are missing, unknown or of another shape.
    """
    prefix, encoder, num_times = (
        ("encoder", network.encoder, network.sizes.grid[0])
        if isinstance(network, JointVivit)
        else ("spatial", network.spatial, 1)
    )
    given = {name: tensor for name, tensor in image.items() if not name.startswith(_CLASSIFIER)}
    given[POSITIONS] = _tiled(image, encoder, num_times)
    given[KERNEL] = _inflated(image, network.embedding.weight, kernel)
    if encoder.class_token is None:
        given.pop(CLASS_TOKEN, None)
    state = network.state_dict()
    tensors = to_state(state, given, list(_rows(prefix, encoder)), what="an image model for this network")
    for i, block in enumerate(encoder.blocks):
        if isinstance(block, FactorisedSelfAttentionBlock):
            tensors |= dict(_time_attention(f"{prefix}.blocks.{i}", tensors, time_attention))
    return ImageStart(tensors, tuple(name for name in state if name not in tensors))


def _tiled(image: Parameters, encoder: Encoder, num_times: int) -> Tensor:
    """Positions `[1, (1+)n*N, D]`: the class token's, then those of the image's patches for each of n times."""
    num_prefix = (CLASS_TOKEN in image) + (DISTILLATION_TOKEN in image)
    num_tables, num_rows, width = shape_of(image, POSITIONS, 3, what="an image model")
    side = math.isqrt(max(num_rows - num_prefix, 0))
    if num_tables != 1 or side < 1 or side * side != num_rows - num_prefix:
        raise RecipeError(
            "bad_checkpoint",
            f"{POSITIONS} must have rows for {num_prefix} tokens and a square grid of patches, "
            f"got {num_tables}x{num_rows}",
        )
    with_token = encoder.class_token is not None
    if with_token and CLASS_TOKEN not in image:
        raise RecipeError("bad_checkpoint", f"the network has a class token, the image model has no {CLASS_TOKEN}")
    positions = image[POSITIONS].float()
    target_side = math.isqrt((encoder.positions.shape[1] - with_token) // num_times)
    grid = positions[:, num_prefix:].reshape(1, side, side, width).permute(0, 3, 1, 2)  # [1, D, h, w]
    if target_side != side:
        # scipy.ndimage.zoom of order 1, which scenic uses, keeps the corners where they are.
        size = (target_side, target_side)
        grid = functional.interpolate(grid, size=size, mode="bilinear", align_corners=True)
    tiled = grid.flatten(2).transpose(1, 2).repeat(1, num_times, 1)  # [1, n*N, D]
    return torch.cat([positions[:, :1], tiled], dim=1) if with_token else tiled


def _inflated(image: Parameters, target: Tensor, how: KernelInflation) -> Tensor:
    """Kernel `[D, 3, t, p, p]` of tubelets; that of frames stays as it is."""
    shape_of(image, KERNEL, 4, what="an image model")
    patch = image[KERNEL].float()
    if target.dim() == 4:
        return patch
    frames = target.shape[2]
    if how == "average":
        return patch.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames  # (8)
    tubelet = torch.zeros(*patch.shape[:2], frames, *patch.shape[2:])
    tubelet[:, :, frames // 2] = patch  # (9)
    return tubelet


def _rows(prefix: str, encoder: Encoder) -> Iterator[Row]:
    if encoder.class_token is not None:
        yield Row(f"{prefix}.class_token", (CLASS_TOKEN,))
    yield Row(f"{prefix}.positions", (POSITIONS,))
    yield from _pair("embedding", "patch_embed.proj")
    for i, block in enumerate(encoder.blocks):
        yield from _block_rows(f"{prefix}.blocks.{i}", f"blocks.{i}", block)
    yield from _pair(f"{prefix}.norm", "norm")


def _block_rows(ours: str, theirs: str, block: nn.Module) -> Iterator[Row]:
    attention = "space_attention" if isinstance(block, FactorisedSelfAttentionBlock) else "attention"
    yield from _pair(f"{ours}.{attention}_norm", f"{theirs}.norm1")
    yield from _pair(f"{ours}.{attention}.qkv", f"{theirs}.attn.qkv")
    yield from _pair(f"{ours}.{attention}.out", f"{theirs}.attn.proj")
    yield from _pair(f"{ours}.mlp_norm", f"{theirs}.norm2")
    yield from _pair(f"{ours}.mlp.0", f"{theirs}.mlp.fc1")
    yield from _pair(f"{ours}.mlp.2", f"{theirs}.mlp.fc2")


def _time_attention(block: str, tensors: dict[str, Tensor], how: TimeAttention) -> Iterator[tuple[str, Tensor]]:
    """Model 3's second attention, so that its step of the block hands on what it got."""
    for module in ("attention_norm", "attention.qkv", "attention.out"):
        for kind in ("weight", "bias"):
            of_space = tensors[f"{block}.space_{module}.{kind}"]
            zero = module == "attention.out" or (how == "zero" and module == "attention.qkv")
            yield f"{block}.time_{module}.{kind}", torch.zeros_like(of_space) if zero else of_space.clone()


def _pair(ours: str, theirs: str) -> Iterator[Row]:
    for kind in ("weight", "bias"):
        yield Row(f"{ours}.{kind}", (f"{theirs}.{kind}",))
