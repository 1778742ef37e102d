"""ViViT of Hugging Face transformers (``VivitForVideoClassification``) to `tubelet.models.vivit.SpatioTemporal`.

Sources: ``transformers/models/vivit``, 4.x and 5.x, whose names differ; the files on the hub have those of 4.x. Both
files that ``save_pretrained`` writes are read: ``model.safetensors`` and ``pytorch_model.bin``. A ``config.json``
beside the file is held against the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tubelet.checkpoints.mapping import Parameters, Row, fill, num_blocks, shape_of
from tubelet.checkpoints.pickles import first_bytes, read_pickle, state_dict_of
from tubelet.models.vivit import SpatioTemporal
from tubelet.models.vivit_sizes import EncoderSizes, JointSizes, TubeletSizes
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import VivitNetwork

__all__ = ["load", "read_parameters", "rows"]

WHAT = "VivitForVideoClassification"
CONFIG_FILE = "config.json"
TANH_GELUS = ("gelu_fast", "gelu_pytorch_tanh", "gelu_new")

_OLD_BLOCK = {
    "attention_norm": "layernorm_before",
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "out": "attention.output.dense",
    "mlp_norm": "layernorm_after",
    "mlp.0": "intermediate.dense",
    "mlp.2": "output.dense",
}
"""Names of 4.x in ``vivit.encoder.layer.{i}``."""

_NEW_BLOCK = _OLD_BLOCK | {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "out": "attention.o_proj",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}
"""Names of 5.x in ``vivit.layers.{i}``."""

_OLD_LAYERS, _NEW_LAYERS = "vivit.encoder.layer.", "vivit.layers."


def load(path: Path, network: VivitNetwork, *, num_frames: int, crop_px: int) -> SpatioTemporal:
    """Builds Model 1 from a file of Hugging Face.

    Raises:
        RecipeError: ``bad_recipe``: a network that transformers does not have, or no ``num_heads``;
            ``bad_checkpoint``: another file, another model, a ``config.json`` that contradicts the recipe, or tensors
            that are missing, unknown or of another shape.
    """
    if network.variant != "spatio_temporal" or network.classifier != "token":
        raise RecipeError(
            "bad_recipe",
            "Hugging Face has ViViT as Model 1 with a class token only: network.variant must be spatio_temporal and "
            f"network.classifier token, got {network.variant} and {network.classifier}",
        )
    if network.sampled_frames is not None:
        raise RecipeError(
            "bad_recipe",
            "Hugging Face has ViViT with tubelets only: network.sampled_frames must be none, got "
            f"{network.sampled_frames}",
        )
    if network.num_heads is None:
        raise RecipeError(
            "bad_recipe",
            "network.num_heads must be a number: these files do not say it (config.json does: num_attention_heads)",
        )
    parameters = read_parameters(path)
    sizes = _sizes(parameters, network.num_heads, num_frames=num_frames, crop_px=crop_px)
    _check_config(path.with_name(CONFIG_FILE), sizes)
    with torch.device("meta"):
        model = SpatioTemporal(sizes)
    fill(model, parameters, rows(parameters, sizes), what=WHAT)
    return model


def read_parameters(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a ``model.safetensors`` or a ``pytorch_model.bin``, whichever the file's bytes say it is.

    Raises:
        RecipeError: ``bad_checkpoint``, where it is neither.
    """
    # Eight bytes of length, then JSON. Neither an archive nor a pickle has a brace there.
    if first_bytes(path, 9)[8:] != b"{":
        return state_dict_of(read_pickle(path))
    try:
        return safetensors.torch.load_file(path)
    except OSError as exc:
        raise RecipeError("bad_checkpoint", f"cannot read {path.name}: {exc.strerror}") from exc
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as exc:
        raise RecipeError("bad_checkpoint", f"{path.name} is no safetensors file, or it is cut off: {exc}") from exc


def rows(parameters: Parameters, sizes: JointSizes) -> list[Row]:
    """Which tensors of the file make which tensors of the network, by the names of 4.x or 5.x, as the file has them."""
    return list(_rows(parameters, sizes.encoder.num_layers))


def _rows(parameters: Parameters, num_layers: int) -> Iterator[Row]:
    layers, names = _names(parameters)
    yield Row("encoder.class_token", ("vivit.embeddings.cls_token",))
    yield Row("encoder.positions", ("vivit.embeddings.position_embeddings",))
    yield from _pair("embedding", "vivit.embeddings.patch_embeddings.projection")
    for i in range(num_layers):
        ours, theirs = f"encoder.blocks.{i}", f"{layers}{i}"
        yield from _pair(f"{ours}.attention.qkv", *(f"{theirs}.{names[name]}" for name in ("query", "key", "value")))
        yield from _pair(f"{ours}.attention.out", f"{theirs}.{names['out']}")
        for name in ("attention_norm", "mlp_norm", "mlp.0", "mlp.2"):
            yield from _pair(f"{ours}.{name}", f"{theirs}.{names[name]}")
    yield from _pair("encoder.norm", "vivit.layernorm")
    yield from _pair("head", "classifier")


def _pair(ours: str, *theirs: str) -> Iterator[Row]:
    for kind in ("weight", "bias"):
        yield Row(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs))


def _names(parameters: Parameters) -> tuple[str, dict[str, str]]:
    is_old = any(name.startswith(_OLD_LAYERS) for name in parameters)
    return (_OLD_LAYERS, _OLD_BLOCK) if is_old else (_NEW_LAYERS, _NEW_BLOCK)


def _sizes(parameters: Parameters, num_heads: int, *, num_frames: int, crop_px: int) -> JointSizes:
    if "classifier.weight" not in parameters:
        raise RecipeError(
            "bad_checkpoint",
            "the file has no classifier.weight: it is a ViViT without a classifier, which gives features and no "
            "classes; take a checkpoint that was trained to classify (VivitForVideoClassification)",
        )
    projection = "vivit.embeddings.patch_embeddings.projection.weight"
    width, _, frames, patch_px, patch_width = shape_of(parameters, projection, 5, what=WHAT)
    num_tokens = shape_of(parameters, "vivit.embeddings.position_embeddings", 3, what=WHAT)[1] - 1
    embedding = TubeletSizes(kind="tubelet", frames=frames, patch_px=patch_px)
    n, num_places = embedding.grid(num_frames, crop_px)
    if patch_px != patch_width or num_tokens < 1 or n * num_places != num_tokens:
        raise RecipeError(
            "bad_checkpoint",
            f"the checkpoint has positions for {num_tokens} tokens; clips of {num_frames} frames (sampler.num_frames) "
            f"of {crop_px} px (crop.size_px) have {n} x {num_places} tubelets of {frames}x{patch_px}x{patch_width}",
        )
    if width % num_heads:
        raise RecipeError("bad_checkpoint", f"width {width} must be a multiple of network.num_heads, got {num_heads}")
    layers, names = _names(parameters)
    mlp_width = shape_of(parameters, f"{layers}0.{names['mlp.0']}.weight", 2, what=WHAT)[0]
    return JointSizes(
        num_frames=num_frames,
        crop_px=crop_px,
        embedding=embedding,
        width=width,
        encoder=EncoderSizes(num_layers=num_blocks(parameters, layers), num_heads=num_heads, mlp_width=mlp_width),
        classifier="token",
        representation_width=None,
        num_classes=shape_of(parameters, "classifier.weight", 2, what=WHAT)[0],
    )


def _check_config(path: Path, sizes: JointSizes) -> None:
    """Holds a ``config.json``, where there is one, against the sizes and against what the network computes."""
    if not path.is_file():
        return
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise RecipeError("bad_checkpoint", f"{path.name} beside the checkpoint cannot be read: {exc}") from exc
    if not isinstance(config, dict):
        raise RecipeError("bad_checkpoint", f"{path.name} beside the checkpoint must hold an object")
    tubelet = [sizes.embedding.frames, sizes.embedding.patch_px, sizes.embedding.patch_px]
    allowed: dict[str, tuple[Any, ...]] = {
        "model_type": ("vivit",),
        "num_attention_heads": (sizes.encoder.num_heads,),
        "tubelet_size": (tubelet,),
        "num_frames": (sizes.num_frames,),
        "image_size": (sizes.crop_px,),
        "layer_norm_eps": (1e-6,),
        "hidden_act": TANH_GELUS,
    }
    for key, values in allowed.items():
        if key in config and config[key] not in values:
            wanted = " or ".join(map(repr, values))
            raise RecipeError(
                "bad_checkpoint",
                f"{path.name} beside the checkpoint says {key} {config[key]!r}; recipe and network say {wanted}",
            )
