"""Our own checkpoints: a safetensors file whose metadata says which network of which sizes the tensors are.

The one entry of the metadata, ``tubelet``, is JSON: ``{"network": ..., "sizes": ...}``, the recipe's ``[network]``
table and the dataclass of sizes (`tubelet.models.registry.sizes_class`). Tensors have the names of the network's state
dict.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tubelet.checkpoints.mapping import Row, fill
from tubelet.checkpoints.pickles import first_bytes
from tubelet.models.network import VideoNetwork
from tubelet.models.registry import build, network_class, sizes_class
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import Network
from tubelet.spec.strict import canonical_json, decode, encode

__all__ = ["load", "save"]

METADATA_KEY = "tubelet"
DTYPES = ("F32", "I64")
"""Weights, and the counters of batch norm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Described:
    network: Network


def save(path: Path, model: VideoNetwork, network: Network) -> None:
    """Writes a network's weights, float32, and what is needed to build it again. The same weights give the same bytes.

    Args:
        path: a file to write or overwrite.
        model: its ``sizes`` must be of the class that `tubelet.models.registry` has for ``network``.
        network: the recipe's table.
    """
    tensors = {
        name: (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    description = {"network": network, "sizes": model.sizes}
    safetensors.torch.save_file(tensors, path, metadata={METADATA_KEY: canonical_json(description)})


def load(path: Path, network: Network, *, num_frames: int, crop_px: int) -> VideoNetwork:
    """Builds the network whose weights lie in a file of ours, float32.

    Args:
        path: what `save` wrote.
        network: must be the file's own.
        num_frames: T, frames of a clip; must be the file's own, unless the network takes any number.
        crop_px: S, side of a frame; must be the file's own.

    Raises:
        RecipeError: ``bad_checkpoint``: the file is broken or no file of ours, holds another network or sizes, or other
            tensors than that network has.
    """
    parameters, description = _read(path)
    try:
        described, sizes = _decode(description)
    except RecipeError as exc:
        raise RecipeError("bad_checkpoint", f"{path.name}: {exc.message}") from exc
    _check_network(described, network)
    if getattr(network_class(network), "takes_any_length", False):
        sizes = replace(sizes, num_frames=num_frames)
    if (sizes.num_frames, sizes.crop_px) != (num_frames, crop_px):
        raise RecipeError(
            "bad_checkpoint",
            f"{path.name} is for clips of {sizes.num_frames} frames of {sizes.crop_px} pixels, the recipe's have "
            f"{num_frames} of {crop_px}",
        )
    _check_depth(encode(sizes), len(parameters))
    try:
        with torch.device("meta"):
            model = build(network, sizes)
    except Exception as exc:  # whatever a network's parts make of sizes that fit none
        raise RecipeError("bad_checkpoint", f"{path.name} has sizes that no {network.family} can have") from exc
    fill(model, parameters, [Row(name, (name,)) for name in model.state_dict()], what=f"this {network.family}")
    return model


def _read(path: Path) -> tuple[dict[str, Tensor], object]:
    """The tensors, copied out of the file, and what the metadata says."""
    first_bytes(path, 1)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            names = list(file.keys()) if text is not None else []
            if strange := [name for name in names if file.get_slice(name).get_dtype() not in DTYPES]:
                raise RecipeError(
                    "bad_checkpoint", f"{path.name} must hold {' and '.join(DTYPES)}, {strange[0]} is none"
                )
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except OSError as exc:
        raise RecipeError("bad_checkpoint", f"cannot read {path.name}: {exc.strerror}") from exc
    except safetensors.SafetensorError as exc:
        raise RecipeError("bad_checkpoint", f"{path.name} is no safetensors file, or it is cut off") from exc
    if text is None:
        raise RecipeError(
            "bad_checkpoint", f"{path.name} has no {METADATA_KEY} in its metadata: tubelet did not write it"
        )
    try:
        return tensors, json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise RecipeError("bad_checkpoint", f"the metadata of {path.name} is no JSON") from exc


def _decode(description: object) -> tuple[Network, Any]:
    if not isinstance(description, dict) or description.keys() != {"network", "sizes"}:
        raise RecipeError("bad_checkpoint", f"the metadata's {METADATA_KEY} must have network and sizes")
    network = decode(_Described, {"network": description["network"]}, where="metadata").network
    return network, decode(sizes_class(network), description["sizes"], where="metadata.sizes")


def _check_network(described: Network, network: Network) -> None:
    theirs, ours = encode(described), encode(network)
    different = [key for key in ours if key not in theirs or theirs[key] != ours[key]]
    if described != network:
        raise RecipeError(
            "bad_checkpoint",
            "the file's network must be the recipe's; they differ in "
            + ", ".join(f"{key} (file: {theirs.get(key)}, recipe: {ours[key]})" for key in different),
        )


def _check_depth(sizes: Any, num_tensors: int) -> None:
    """Refuses to build more layers than there are tensors for."""
    if not isinstance(sizes, dict):
        return
    for key, value in sizes.items():
        if key in ("num_layers", "num_blocks"):
            count = sum(value) if isinstance(value, list) else value
            if count > num_tensors:
                raise RecipeError(
                    "bad_checkpoint", f"the file claims {key} of {count}, and holds {num_tensors} tensors"
                )
        _check_depth(value, num_tensors)
