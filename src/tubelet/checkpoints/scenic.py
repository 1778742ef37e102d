"""ViViT checkpoints of google-research/scenic to state dicts of `tubelet.models.vivit`, and back.

Sources: ``scenic/projects/vivit/model.py`` and ``model_utils.py`` for the names and shapes of the parameters,
``flax.training.checkpoints`` for the file. One table (`_table`) says which leaf of scenic is which tensor of ours; it
is read in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tubelet.checkpoints.flax import flatten, pack_tree, read_tree
from tubelet.models.vivit import FactorisedEncoderSizes
from tubelet.spec.errors import RecipeError

__all__ = ["factorised_encoder_sizes", "factorised_encoder_state", "read_parameters", "write_checkpoint"]

Array = NDArray[np.float32]
Parameters = dict[str, Array]

SPATIAL, TEMPORAL = "SpatialTransformer", "TemporalTransformer"
QUERY = "encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"

Layout = Literal["same", "flat", "in_first", "out_last", "conv"]
_LAYOUTS: dict[Layout, tuple[Callable[[Array], Array], Callable[[Array, tuple[int, ...]], Array]]] = {
    "same": (lambda leaf: leaf, lambda tensor, shape: tensor),
    # (H, D/H) -> (D), head-major
    "flat": (lambda leaf: leaf.reshape(-1), lambda tensor, shape: tensor.reshape(shape)),
    # Flax multiplies from the right: (in, out...) -> (out, in)
    "in_first": (lambda leaf: leaf.reshape(leaf.shape[0], -1).T, lambda tensor, shape: tensor.T.reshape(shape)),
    # (in..., out) -> (out, in)
    "out_last": (lambda leaf: leaf.reshape(-1, leaf.shape[-1]).T, lambda tensor, shape: tensor.T.reshape(shape)),
    # (t, h, w, in, out) -> (out, in, t, h, w)
    "conv": (lambda leaf: leaf.transpose(4, 3, 0, 1, 2), lambda tensor, shape: tensor.transpose(2, 3, 4, 1, 0)),
}
"""How a leaf of scenic becomes a tensor of ours, and how that tensor becomes a leaf of the given shape."""


@dataclass(frozen=True, slots=True)
class _Row:
    """Which leaves make which tensor; several leaves are stacked along the tensor's first axis."""

    tensor: str
    leaves: tuple[str, ...]
    shape: tuple[int, ...]
    """Of each leaf."""
    layout: Layout


def read_parameters(path: Path) -> Parameters:
    """Reads the parameters of a scenic ``checkpoint`` file, by their names joined with '/'.

    Both layouts of scenic's training state are read: ``optimizer.target`` (as in the released ViViT files) and
    ``params``. The optimiser's state is ignored.

    Returns:
        float32 arrays, named as in scenic: ``SpatialTransformer/encoderblock_0/LayerNorm_0/scale``.

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
    return dict(flatten(found))


def factorised_encoder_sizes(parameters: Mapping[str, Array]) -> FactorisedEncoderSizes:
    """Reads the sizes of a factorised encoder (Model 2) from its parameters' shapes; blocks are counted.

    Args:
        parameters: what `read_parameters` gave.

    Raises:
        RecipeError: ``bad_checkpoint``: another model, or shapes that fit no clip of square frames.
    """
    tubelet_frames, patch_px, patch_width, _, width = _shape(parameters, "embedding/kernel", 5)
    patches = _shape(parameters, f"{SPATIAL}/posembed_input/pos_embedding", 3)[1] - 1
    tubelets = _shape(parameters, f"{TEMPORAL}/posembed_input/pos_embedding", 3)[1] - 1
    side = math.isqrt(max(patches, 0))
    if patch_px != patch_width or side < 1 or side * side != patches or tubelets < 1:
        raise RecipeError(
            "bad_checkpoint",
            "expected square patches, a square number of them and at least one tubelet, each position table with a row "
            f"for the class token; got patches of {patch_px}x{patch_width}, {patches} patches, {tubelets} tubelets",
        )
    heads = [_shape(parameters, f"{encoder}/{QUERY}", 3)[1] for encoder in (SPATIAL, TEMPORAL)]
    if any(width % num_heads for num_heads in heads):
        raise RecipeError("bad_checkpoint", f"width {width} must be a multiple of the heads, got {heads}")
    return FactorisedEncoderSizes(
        num_frames=tubelets * tubelet_frames,
        tubelet_frames=tubelet_frames,
        crop_px=side * patch_px,
        patch_px=patch_px,
        width=width,
        mlp_width=_shape(parameters, f"{SPATIAL}/encoderblock_0/MlpBlock_0/Dense_0/kernel", 2)[1],
        spatial_layers=_count_blocks(parameters, SPATIAL),
        spatial_heads=heads[0],
        temporal_layers=_count_blocks(parameters, TEMPORAL),
        temporal_heads=heads[1],
        num_classes=_shape(parameters, "output_projection/kernel", 2)[1],
    )


def factorised_encoder_state(parameters: Mapping[str, Array], sizes: FactorisedEncoderSizes) -> dict[str, Tensor]:
    """Turns scenic's parameters into the state dict of `FactorisedEncoder`, float32.

    Raises:
        RecipeError: ``bad_checkpoint``, naming the leaves that are missing, unknown or of another shape.
    """
    table = list(_table(sizes))
    _check(parameters, {leaf: row.shape for row in table for leaf in row.leaves})
    state = {}
    for row in table:
        to_tensor = _LAYOUTS[row.layout][0]
        parts = [to_tensor(parameters[leaf]) for leaf in row.leaves]
        state[row.tensor] = torch.from_numpy(np.ascontiguousarray(np.concatenate(parts)))
    return state


def write_checkpoint(path: Path, state: Mapping[str, Tensor], sizes: FactorisedEncoderSizes) -> None:
    """Writes the state dict of a `FactorisedEncoder` as scenic would, in the layout with ``params``.

    The same weights give the same bytes.
    """
    parameters: dict[str, Any] = {}
    for row in _table(sizes):
        to_leaf = _LAYOUTS[row.layout][1]
        parts = np.split(state[row.tensor].detach().cpu().float().numpy(), len(row.leaves))
        for leaf, part in zip(row.leaves, parts, strict=True):
            _insert(parameters, leaf, np.ascontiguousarray(to_leaf(part, row.shape)))
    path.write_bytes(pack_tree({"params": parameters, "global_step": 0, "model_state": {}}))


def _table(sizes: FactorisedEncoderSizes) -> Iterator[_Row]:
    patch, width, classes = sizes.patch_px, sizes.width, sizes.num_classes
    yield _Row("embedding.weight", ("embedding/kernel",), (sizes.tubelet_frames, patch, patch, 3, width), layout="conv")
    yield _Row("embedding.bias", ("embedding/bias",), (width,), layout="same")
    yield from _encoder_rows(sizes, "spatial", SPATIAL)
    yield from _encoder_rows(sizes, "temporal", TEMPORAL)
    yield _Row("head.weight", ("output_projection/kernel",), (width, classes), layout="in_first")
    yield _Row("head.bias", ("output_projection/bias",), (classes,), layout="same")


def _encoder_rows(sizes: FactorisedEncoderSizes, ours: str, theirs: str) -> Iterator[_Row]:
    spatial = theirs == SPATIAL
    num_tokens, num_layers, num_heads = (
        (sizes.num_patches, sizes.spatial_layers, sizes.spatial_heads)
        if spatial
        else (sizes.num_tubelets, sizes.temporal_layers, sizes.temporal_heads)
    )
    width = sizes.width
    yield _Row(f"{ours}.class_token", (f"cls_{theirs}",), (1, 1, width), layout="same")
    yield _Row(
        f"{ours}.positions", (f"{theirs}/posembed_input/pos_embedding",), (1, num_tokens + 1, width), layout="same"
    )
    for i in range(num_layers):
        for row in _block_rows(width, num_heads, mlp_width=sizes.mlp_width):
            leaves = tuple(f"{theirs}/encoderblock_{i}/{leaf}" for leaf in row.leaves)
            yield _Row(f"{ours}.blocks.{i}.{row.tensor}", leaves, row.shape, row.layout)
    yield _Row(f"{ours}.norm.weight", (f"{theirs}/encoder_norm/scale",), (width,), layout="same")
    yield _Row(f"{ours}.norm.bias", (f"{theirs}/encoder_norm/bias",), (width,), layout="same")


def _block_rows(width: int, num_heads: int, *, mlp_width: int) -> Iterator[_Row]:
    heads = (num_heads, width // num_heads)
    attention = "MultiHeadDotProductAttention_0"
    qkv = [f"{attention}/{name}" for name in ("query", "key", "value")]
    for tensor, leaf in (("attention_norm", "LayerNorm_0"), ("mlp_norm", "LayerNorm_1")):
        yield _Row(f"{tensor}.weight", (f"{leaf}/scale",), (width,), layout="same")
        yield _Row(f"{tensor}.bias", (f"{leaf}/bias",), (width,), layout="same")
    yield _Row("attention.qkv.weight", tuple(f"{name}/kernel" for name in qkv), (width, *heads), layout="in_first")
    yield _Row("attention.qkv.bias", tuple(f"{name}/bias" for name in qkv), heads, layout="flat")
    yield _Row("attention.out.weight", (f"{attention}/out/kernel",), (*heads, width), layout="out_last")
    yield _Row("attention.out.bias", (f"{attention}/out/bias",), (width,), layout="same")
    for tensor, leaf, shape in (("mlp.0", "Dense_0", (width, mlp_width)), ("mlp.2", "Dense_1", (mlp_width, width))):
        yield _Row(f"{tensor}.weight", (f"MlpBlock_0/{leaf}/kernel",), shape, layout="in_first")
        yield _Row(f"{tensor}.bias", (f"MlpBlock_0/{leaf}/bias",), shape[1:], layout="same")


def _check(parameters: Mapping[str, Array], expected: Mapping[str, tuple[int, ...]]) -> None:
    if missing := [name for name in expected if name not in parameters]:
        raise RecipeError("bad_checkpoint", f"the checkpoint lacks {_listed(missing)}")
    if unknown := [name for name in parameters if name not in expected]:
        raise RecipeError(
            "bad_checkpoint", f"a factorised encoder has no {_listed(unknown)}; is it another ViViT variant?"
        )
    for name, shape in expected.items():
        if parameters[name].shape != shape:
            raise RecipeError("bad_checkpoint", f"{name} must have shape {shape}, got {parameters[name].shape}")


def _shape(parameters: Mapping[str, Array], name: str, rank: int) -> tuple[int, ...]:
    if name not in parameters:
        found = sorted({key.partition("/")[0] for key in parameters})
        raise RecipeError(
            "bad_checkpoint",
            f"a factorised encoder has {name}; this checkpoint has only {_listed(found)} at its top",
        )
    shape = parameters[name].shape
    if len(shape) != rank or 0 in shape:
        raise RecipeError("bad_checkpoint", f"{name} must have {rank} axes, none of them empty, got shape {shape}")
    return shape


def _count_blocks(parameters: Mapping[str, Array], encoder: str) -> int:
    prefix = f"{encoder}/encoderblock_"
    return len({name.removeprefix(prefix).partition("/")[0] for name in parameters if name.startswith(prefix)})


def _insert(tree: dict[str, Any], name: str, leaf: Array) -> None:
    *folders, last = name.split("/")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[last] = leaf


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
