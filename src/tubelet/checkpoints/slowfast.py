"""VTN checkpoints of bomri/SlowFast (``.pyth``) to `tubelet.models.vtn`.

Sources: ``slowfast/models/{video_model_builder,vtn_helper}.py`` for the names and shapes of the tensors,
``slowfast/utils/checkpoint.py`` for the file: a pickle with the tensors at ``model_state``. Its own loader takes what
fits and leaves the rest as it was; this one takes all or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from tubelet.checkpoints.backbones import backbone_rows, backbone_sizes, without_counters
from tubelet.checkpoints.mapping import Parameters, Row, fill, num_blocks, shape_of
from tubelet.checkpoints.pickles import read_pickle, state_dict_of
from tubelet.models.longformer import LongformerSizes
from tubelet.models.vtn import Vtn, VtnSizes
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import VtnNetwork

__all__ = ["load", "rows"]

WHAT = "this VTN"
LAYERS = "temporal_encoder.encoder.layer."
EMBEDDINGS = "temporal_encoder.embeddings."
POSITIONS = f"{EMBEDDINGS}position_embeddings.weight"
POSITION_IDS = f"{EMBEDDINGS}position_ids"
"""0, 1, 2, ...: a buffer that older versions of transformers store and none reads."""


def load(path: Path, network: VtnNetwork, *, num_frames: int, crop_px: int) -> Vtn:
    """Builds the VTN whose weights lie in a ``.pyth`` file, float32.

    Depths and widths are read from the tensors.

    Args:
        path: a dictionary with ``model_state``, whatever else it holds, or the tensors themselves.
        network: backbone, heads, windows and positions; no tensor's shape tells heads and windows.
        num_frames: T, frames of a clip; the network takes any number.
        crop_px: S, side of a frame; a ViT backbone's position table must be for it.

    Raises:
        RecipeError: ``bad_checkpoint``: the file is broken, or for another network or other frames; ``bad_recipe``:
            heads that do not divide the width, or another number of windows than of layers.
    """
    parameters = without_counters(state_dict_of(read_pickle(path), "model_state"))
    parameters.pop(POSITION_IDS, None)
    sizes = _sizes(parameters, network, num_frames=num_frames, crop_px=crop_px)
    try:
        with torch.device("meta"):
            model = Vtn(sizes)
    except ValueError as exc:
        raise RecipeError("bad_recipe", f"no VTN has these sizes: {exc}") from exc
    fill(model, parameters, rows(model), what=WHAT)
    return model


def rows(model: Vtn) -> list[Row]:
    """Which tensors of the file make which of ours."""
    return list(_rows(model))


def _rows(model: Vtn) -> Iterator[Row]:
    yield from backbone_rows(model.backbone, "backbone.", "backbone.")
    yield Row("temporal.class_token", ("cls_token",))
    if model.sizes.temporal.positions == "learned":
        yield Row("temporal.embedding.positions.weight", (POSITIONS,))
    yield Row("temporal.embedding.types", (f"{EMBEDDINGS}token_type_embeddings.weight",))
    yield from _pair("temporal.embedding.norm", f"{EMBEDDINGS}LayerNorm")
    for i in range(len(model.sizes.temporal.attention_window)):
        ours, theirs = f"temporal.layers.{i}", f"{LAYERS}{i}"
        attention = f"{theirs}.attention.self"
        yield from _pair(f"{ours}.qkv", *(f"{attention}.{name}" for name in ("query", "key", "value")))
        yield from _pair(f"{ours}.global_query", f"{attention}.query_global")
        yield from _pair(f"{ours}.global_key_value", *(f"{attention}.{name}_global" for name in ("key", "value")))
        yield from _pair(f"{ours}.out", f"{theirs}.attention.output.dense")
        yield from _pair(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm")
        yield from _pair(f"{ours}.mlp.0", f"{theirs}.intermediate.dense")
        yield from _pair(f"{ours}.mlp.2", f"{theirs}.output.dense")
        yield from _pair(f"{ours}.mlp_norm", f"{theirs}.output.LayerNorm")
    for number in (0, 1, 4):
        yield from _pair(f"head.{number}", f"mlp_head.{number}")


def _pair(ours: str, *theirs: str) -> Iterator[Row]:
    for kind in ("weight", "bias"):
        yield Row(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs))


def _sizes(parameters: Parameters, network: VtnNetwork, *, num_frames: int, crop_px: int) -> VtnSizes:
    backbone = backbone_sizes(parameters, network, prefix="backbone.", crop_px=crop_px)
    query = f"{LAYERS}0.attention.self.query.weight"
    if (found := shape_of(parameters, query, 2, what=WHAT)) != (backbone.width, backbone.width):
        raise RecipeError(
            "bad_checkpoint",
            f"the backbone's features have width {backbone.width}, the temporal encoder ({query}) is for {found}",
        )
    return VtnSizes(
        num_frames=num_frames,
        crop_px=crop_px,
        backbone=backbone,
        temporal=_temporal_sizes(parameters, network, backbone.width),
        head_width=shape_of(parameters, "mlp_head.1.weight", 2, what=WHAT)[0],
        num_classes=shape_of(parameters, "mlp_head.4.weight", 2, what=WHAT)[0],
    )


def _temporal_sizes(parameters: Parameters, network: VtnNetwork, width: int) -> LongformerSizes:
    if width % network.temporal_heads:
        raise RecipeError(
            "bad_recipe",
            f"temporal_heads must divide the temporal encoder's width {width}, got {network.temporal_heads}",
        )
    if (num_layers := num_blocks(parameters, LAYERS)) != len(network.attention_window):
        raise RecipeError(
            "bad_recipe",
            f"attention_window must have a number for each of the checkpoint's {num_layers} temporal layers, got "
            f"{list(network.attention_window)}",
        )
    return LongformerSizes(
        num_heads=network.temporal_heads,
        mlp_width=shape_of(parameters, f"{LAYERS}0.intermediate.dense.weight", 2, what=WHAT)[0],
        attention_window=network.attention_window,
        positions=network.positions,
        max_positions=_max_positions(parameters, network),
    )


def _max_positions(parameters: Parameters, network: VtnNetwork) -> int | None:
    if network.positions == "learned":
        if (num_rows := shape_of(parameters, POSITIONS, 2, what="a VTN with learned positions")[0]) < 3:
            raise RecipeError(
                "bad_checkpoint",
                f"{POSITIONS} must have rows for frames, the class token and padding, got {num_rows}",
            )
        return num_rows
    if POSITIONS in parameters:
        raise RecipeError(
            "bad_checkpoint",
            f"the recipe says positions {network.positions}; this checkpoint has a table of them ({POSITIONS}): say "
            "learned, whatever its rows are",
        )
    return network.max_positions
