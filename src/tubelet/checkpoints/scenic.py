"""ViViT checkpoints of google-research/scenic to networks of `tubelet.models.vivit`, and back.

Sources: ``scenic/projects/vivit/model.py`` and ``model_utils.py`` for the names and shapes of the parameters,
``flax.training.checkpoints`` for the file. One table (`rows`) says which leaf of scenic is which tensor of ours; it is
read in both directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tubelet.checkpoints.flax import flatten, pack_tree, read_tree
from tubelet.checkpoints.mapping import Layout, Row, fill, from_state
from tubelet.checkpoints.scenic_sizes import CLASS_TOKENS, JOINT, SPATIAL, TEMPORAL, sizes_of, title_of
from tubelet.models.layers import Block, Encoder, SelfAttention
from tubelet.models.vivit import FactorisedEncoder, JointVivit, Representation, build
from tubelet.models.vivit_attention import FactorisedSelfAttentionBlock
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import VivitNetwork

__all__ = ["load", "read_parameters", "rows", "write_checkpoint"]

Vivit = JointVivit | FactorisedEncoder


def load(path: Path, network: VivitNetwork, *, num_frames: int, crop_px: int) -> Vivit:
    """Builds the ViViT of a scenic ``checkpoint`` file; sizes are read from its shapes.

    The embedding is that of tubelets or that of uniform frame sampling, as the kernel has a time axis or not. How many
    frames are sampled is read from the positions; where scenic gives one frame more than was asked for (3 for 2 of 8),
    and as many when that many are asked for (3 for 3 of 8), the latter is taken.

    Raises:
        RecipeError: ``bad_checkpoint``: no Flax msgpack file, another model than the recipe says, or tensors that are
            missing, unknown or of another shape.
    """
    parameters = read_parameters(path)
    sizes = sizes_of(parameters, network, num_frames=num_frames, crop_px=crop_px)
    with torch.device("meta"):
        model = build(sizes)
    fill(model, parameters, rows(model), what=title_of(network))
    return model


def read_parameters(path: Path) -> dict[str, Tensor]:
    """Reads the parameters of a scenic ``checkpoint`` file, by their names joined with '/'.

    Both layouts of scenic's training state are read: ``optimizer.target`` (as in the released ViViT files) and
    ``params``. The optimiser's state is ignored.

    Returns:
        float32 tensors, named as in scenic: ``SpatialTransformer/encoderblock_0/LayerNorm_0/scale``.

    Raises:
        RecipeError: ``bad_checkpoint``: not a Flax msgpack file, or one without parameters.
    """
    tree = read_tree(path)
    optimizer = tree.get("optimizer")
    target = optimizer.get("target") if isinstance(optimizer, dict) else None
    found = tree.get("params") or target
    if isinstance(found, dict) and isinstance(found.get("params"), dict):
        found = found["params"]
    if not isinstance(found, dict) or not found:
        keys = ", ".join(map(repr, tree)) or "nothing"
        raise RecipeError(
            "bad_checkpoint", f"{path.name} must hold parameters at 'params' or 'optimizer.target', it holds {keys}"
        )
    parameters: dict[str, Tensor] = {}
    for name, tensor in flatten(found):
        if name in parameters:
            raise RecipeError("bad_checkpoint", f"{path.name} has two parameters that are called {name}")
        parameters[name] = tensor
    return parameters


def write_checkpoint(path: Path, network: Vivit) -> None:
    """Writes a network as scenic would, in the layout with ``params``. The same weights give the same bytes."""
    parameters: dict[str, Any] = {}
    for name, leaf in from_state(network.state_dict(), rows(network)).items():
        *folders, last = name.split("/")
        place = parameters
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = leaf.numpy()
    path.write_bytes(pack_tree({"params": parameters, "global_step": 0, "model_state": {}}))


def rows(network: Vivit) -> list[Row]:
    """Which leaves of scenic make which tensors of a network; values are not read, so it may be on the meta device."""
    return list(_rows(network))


def _rows(network: Vivit) -> Iterator[Row]:
    out_channels, in_channels, *kernel = tuple(network.embedding.weight.shape)
    layout: Layout = "conv3d" if len(kernel) == 3 else "conv2d"
    yield Row("embedding.weight", ("embedding/kernel",), (*kernel, in_channels, out_channels), layout)
    yield Row("embedding.bias", ("embedding/bias",))
    if isinstance(network, JointVivit):
        yield from _encoder_rows("encoder", JOINT, network.encoder)
    else:
        yield from _encoder_rows("spatial", SPATIAL, network.spatial)
        if network.temporal is not None:
            yield from _encoder_rows("temporal", TEMPORAL, network.temporal)
    if isinstance(network.representation, Representation):
        yield from _linear_rows("representation", "pre_logits", network.representation)
    yield from _linear_rows("head", "output_projection", network.head)


def _encoder_rows(ours: str, theirs: str, encoder: Encoder) -> Iterator[Row]:
    if encoder.class_token is not None:
        yield Row(f"{ours}.class_token", (CLASS_TOKENS[theirs],))
    yield Row(f"{ours}.positions", (f"{theirs}/posembed_input/pos_embedding",))
    for i, block in enumerate(encoder.blocks):
        yield from _block_rows(f"{ours}.blocks.{i}", f"{theirs}/encoderblock_{i}", block)
    yield from _norm_rows(f"{ours}.norm", f"{theirs}/encoder_norm")


def _block_rows(ours: str, theirs: str, block: nn.Module) -> Iterator[Row]:
    if isinstance(block, FactorisedSelfAttentionBlock):
        yield from _attention_rows(f"{ours}.time_attention", theirs, "time", block.time_attention)
        yield from _attention_rows(f"{ours}.space_attention", theirs, "space", block.space_attention)
        yield from _mlp_rows(ours, f"{theirs}/LayerNorm_mlp", f"{theirs}/MlpBlock", block.mlp)
    elif isinstance(block, Block):
        yield from _attention_rows(f"{ours}.attention", theirs, "0", block.attention)
        yield from _mlp_rows(ours, f"{theirs}/LayerNorm_1", f"{theirs}/MlpBlock_0", block.mlp)


def _attention_rows(ours: str, block: str, suffix: str, attention: SelfAttention) -> Iterator[Row]:
    yield from _norm_rows(f"{ours}_norm", f"{block}/LayerNorm_{suffix}")
    theirs = f"{block}/MultiHeadDotProductAttention_{suffix}"
    width, num_heads = attention.out.out_features, attention.num_heads
    heads = (num_heads, width // num_heads)
    qkv = [f"{theirs}/{name}" for name in ("query", "key", "value")]
    yield Row(f"{ours}.qkv.weight", tuple(f"{name}/kernel" for name in qkv), (width, *heads), "in_first")
    yield Row(f"{ours}.qkv.bias", tuple(f"{name}/bias" for name in qkv), heads, "flat")
    yield Row(f"{ours}.out.weight", (f"{theirs}/out/kernel",), (*heads, width), "out_last")
    yield Row(f"{ours}.out.bias", (f"{theirs}/out/bias",))


def _mlp_rows(ours: str, norm: str, theirs: str, mlp: nn.Sequential) -> Iterator[Row]:
    yield from _norm_rows(f"{ours}.mlp_norm", norm)
    first, _, second = mlp
    yield from _linear_rows(f"{ours}.mlp.0", f"{theirs}/Dense_0", first)
    yield from _linear_rows(f"{ours}.mlp.2", f"{theirs}/Dense_1", second)


def _norm_rows(ours: str, theirs: str) -> Iterator[Row]:
    yield Row(f"{ours}.weight", (f"{theirs}/scale",))
    yield Row(f"{ours}.bias", (f"{theirs}/bias",))


def _linear_rows(ours: str, theirs: str, linear: nn.Module) -> Iterator[Row]:
    out_features, in_features = linear.get_parameter("weight").shape
    yield Row(f"{ours}.weight", (f"{theirs}/kernel",), (in_features, out_features), "in_first")
    yield Row(f"{ours}.bias", (f"{theirs}/bias",))
