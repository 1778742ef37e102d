"""VidTr checkpoints of amazon-science/gluonmm to `tubelet.models.vidtr`, and back.

Sources: ``src/transformers/models/vidtr`` for the names and shapes of the tensors, ``src/transformers/utils`` for the
file: a pickle with the tensors at ``model``, named ``module.…`` as in a network wrapped for many GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import torch

from tubelet.checkpoints.mapping import Parameters, Row, fill, num_blocks, shape_of
from tubelet.checkpoints.pickles import read_pickle, state_dict_of, without_prefix
from tubelet.models.vidtr import CompactVidtr, CompactVidtrSizes, JointVidtr, SeparableVidtr, VidtrSizes
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import VidtrNetwork

__all__ = ["load", "rows"]

LAYERS = "encoder.layers."

_WHAT = {"separable": "VidTr", "joint": "VidTr with joint attention", "compact": "C-VidTr"}


def load(
    path: Path, network: VidtrNetwork, *, num_frames: int, crop_px: int
) -> SeparableVidtr | JointVidtr | CompactVidtr:
    """Builds the network whose weights lie in a file of gluonmm, float32.

    Args:
        path: a dictionary with ``model``, whatever else it holds, or the tensors themselves.
        network: which VidTr it is, its heads, activation and pooling; no tensor's shape tells these.
        num_frames: T, frames of a clip; the file's position table must be for as many.
        crop_px: S, side of a frame; likewise.

    Raises:
        RecipeError: ``bad_checkpoint``: the file is broken, or for another network or other clips; ``bad_recipe``:
            ``num_heads`` or ``pool_layers`` fit no network of these sizes.
    """
    parameters = without_prefix(state_dict_of(read_pickle(path), "model"), "module.")
    if "fc.weight" not in parameters and "conv_stem.weight" in parameters:
        raise RecipeError(
            "bad_checkpoint",
            f"{path.name} has no classifier (fc.weight): it is a start for training, such as vit_inflate.pth. "
            "Give a file that was trained on videos",
        )
    sizes = _sizes(parameters, network, num_frames=num_frames, crop_px=crop_px)
    with torch.device("meta"):
        model: SeparableVidtr | JointVidtr | CompactVidtr
        if isinstance(sizes, CompactVidtrSizes):
            model = CompactVidtr(sizes)
        else:
            model = JointVidtr(sizes) if network.variant == "joint" else SeparableVidtr(sizes)
    fill(model, parameters, rows(model), what=_WHAT[network.variant])
    return model


def rows(model: SeparableVidtr | JointVidtr | CompactVidtr) -> list[Row]:
    """Which tensors of gluonmm, without ``module.``, are which of ours."""
    if isinstance(model, SeparableVidtr):
        table = [Row("class_row", ("cls_t",)), Row("class_column", ("cls_s",))]
    else:
        table = [Row("class_token", ("cls",))]
    table.append(Row("positions", ("pos_embedding",)))
    modules = {"embedding": "conv_stem", "norm": "encoder.norm", "head": "fc"}
    for i in range(model.sizes.num_layers):
        theirs, ours = f"{LAYERS}{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            table.append(Row(f"{ours}attention.qkv.{kind}", (f"{theirs}self_attn.in_proj_{kind}",)))
        modules |= {
            f"{ours}attention_norm": f"{theirs}norm1",
            f"{ours}attention.out": f"{theirs}self_attn.out_proj",
            f"{ours}mlp_norm": f"{theirs}norm2",
            f"{ours}mlp.0": f"{theirs}linear1",
            f"{ours}mlp.2": f"{theirs}linear2",
        }
    return [*table, *_weights_and_biases(modules)]


def _weights_and_biases(modules: dict[str, str]) -> Iterator[Row]:
    for ours, theirs in modules.items():
        for kind in ("weight", "bias"):
            yield Row(f"{ours}.{kind}", (f"{theirs}.{kind}",))


def _sizes(parameters: Parameters, network: VidtrNetwork, *, num_frames: int, crop_px: int) -> VidtrSizes:
    what = _WHAT[network.variant]
    width, channels, patch_frames, patch_px, patch_width = shape_of(parameters, "conv_stem.weight", 5, what=what)
    if channels != 3 or patch_px != patch_width:
        raise RecipeError(
            "bad_checkpoint",
            f"{what} has square patches of 3 channels, conv_stem.weight is for {patch_px}x{patch_width} of {channels}",
        )
    if num_frames % patch_frames or crop_px % patch_px:
        raise RecipeError(
            "bad_checkpoint",
            f"the checkpoint's patches are {patch_frames}x{patch_px}x{patch_px}, and the recipe's clips of "
            f"{num_frames} frames of {crop_px} pixels no multiple of that",
        )
    if width % network.num_heads:
        raise RecipeError(
            "bad_recipe", f"num_heads must divide the checkpoint's width {width}, got {network.num_heads}"
        )
    mlp_width, _ = shape_of(parameters, f"{LAYERS}0.linear1.weight", 2, what=what)
    sizes = VidtrSizes(
        num_frames=num_frames,
        patch_frames=patch_frames,
        crop_px=crop_px,
        patch_px=patch_px,
        width=width,
        num_layers=num_blocks(parameters, LAYERS),
        num_heads=network.num_heads,
        mlp_width=mlp_width,
        activation=network.activation,
        num_classes=shape_of(parameters, "fc.weight", 2, what=what)[0],
    )
    _check_positions(parameters, sizes, network)
    return _pooled(sizes, network) if network.variant == "compact" else sizes


def _pooled(sizes: VidtrSizes, network: VidtrNetwork) -> CompactVidtrSizes:
    shared = {field.name: getattr(sizes, field.name) for field in fields(sizes)}
    try:
        return CompactVidtrSizes(**shared, pool_layers=network.pool_layers, dropped_times=network.dropped_frames)
    except ValueError as exc:
        raise RecipeError("bad_recipe", str(exc)) from exc


def _check_positions(parameters: Parameters, sizes: VidtrSizes, network: VidtrNetwork) -> None:
    what, num_times, num_places = _WHAT[network.variant], sizes.num_times, sizes.num_places
    clips = f"clips of {sizes.num_frames} frames of {sizes.crop_px} pixels"
    if network.variant == "separable":
        found = (
            shape_of(parameters, "cls_s", 3, what=what)[0],
            shape_of(parameters, "cls_t", 3, what=what)[1] - 1,
        )
        if found != (num_times, num_places):
            raise RecipeError(
                "bad_checkpoint",
                f"the checkpoint is for {found[0]} times and {found[1]} places at each (cls_s, cls_t), the recipe's "
                f"{clips} have {num_times} and {num_places}",
            )
    else:
        num_rows, needed = shape_of(parameters, "pos_embedding", 3, what=what)[1], 1 + num_times * num_places
        if num_rows != needed:
            raise RecipeError(
                "bad_checkpoint",
                f"the checkpoint is for {num_rows} tokens (pos_embedding), the recipe's {clips} have {needed}: a class "
                f"token, and {num_places} places at each of {num_times} times",
            )
