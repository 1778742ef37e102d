"""From a checkpoint file to a network that is ready to compute."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from tubelet.checkpoints import gluoncv, gluonmm, huggingface, native, scenic, slowfast
from tubelet.models.network import VideoNetwork
from tubelet.spec.errors import RecipeError
from tubelet.spec.manifest import CheckpointFormat
from tubelet.spec.network import Network

__all__ = ["load_model", "sha256_file"]


_LOADERS: dict[tuple[CheckpointFormat, str], Callable[..., VideoNetwork]] = {
    ("scenic", "vivit"): scenic.load,
    ("huggingface", "vivit"): huggingface.load,
    ("slowfast", "vtn"): slowfast.load,
    ("gluonmm", "vidtr"): gluonmm.load,
    ("gluoncv", "i3d"): gluoncv.load,
    **{("tubelet", family): native.load for family in ("vivit", "vtn", "vidtr", "i3d")},
}
"""By format and family; each takes the family's own kind of network."""


def load_model(
    path: Path, *, format: CheckpointFormat, network: Network, num_frames: int, crop_px: int
) -> VideoNetwork:
    """Builds the network whose sizes and weights lie in a checkpoint, float32, in eval mode.

    Args:
        path: the file as its authors released it.
        format: who wrote the file.
        network: what the file cannot say.
        num_frames: T, frames of a clip. Some shapes hold only a product of it and the crop's side.
        crop_px: S, side of a frame.

    Raises:
        RecipeError: ``bad_recipe``, where this format has no such network; ``bad_checkpoint``, where the file does not
            hold exactly this network's parameters, for clips of this size.
    """
    loader = _LOADERS.get((format, network.family))
    if loader is None:
        known = "; ".join(" ".join(names) for names in _LOADERS)
        raise RecipeError("bad_recipe", f"no loader for {format} {network.family}; there are: {known}")
    return loader(path, network, num_frames=num_frames, crop_px=crop_px).eval()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        RecipeError: ``bad_checkpoint``, where the file cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe or a device could keep us reading for ever
        raise RecipeError("bad_checkpoint", f"{path} must be a file, it is a folder, a pipe or a device")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as exc:  # ValueError: a name with a null byte
        reason = getattr(exc, "strerror", None) or exc
        raise RecipeError("bad_checkpoint", f"cannot read {path}: {reason}") from exc
