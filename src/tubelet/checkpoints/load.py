"""From a checkpoint file to a network that is ready to compute."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from tubelet.checkpoints import scenic
from tubelet.models.vivit import FactorisedEncoder
from tubelet.spec.errors import RecipeError

__all__ = ["load_model", "sha256_file"]


def load_model(path: Path, *, format: str, family: str, variant: str) -> FactorisedEncoder:
    """Builds the network whose sizes and weights lie in a checkpoint, float32, in eval mode.

    Args:
        path: the file as its authors released it.
        format: who wrote the file: ``scenic``.
        family: ``vivit``.
        variant: ``factorised_encoder``.

    Raises:
        RecipeError: ``bad_recipe``, where no such combination is known; ``bad_checkpoint``, where the file does not
            hold exactly this network's parameters.
    """
    key = (format, family, variant)
    if key not in _LOADERS:
        known = "; ".join(" ".join(names) for names in _LOADERS)
        raise RecipeError("bad_recipe", f"no loader for {' '.join(key)}; there are: {known}")
    return _LOADERS[key](path).eval()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        RecipeError: ``bad_checkpoint``, where the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise RecipeError("bad_checkpoint", f"cannot read {path}: {exc.strerror}") from exc


def _scenic_factorised_encoder(path: Path) -> FactorisedEncoder:
    parameters = scenic.read_parameters(path)
    sizes = scenic.factorised_encoder_sizes(parameters)
    with torch.device("meta"):  # no memory and no random numbers for weights that are about to be replaced
        model = FactorisedEncoder(sizes)
    model.load_state_dict(scenic.factorised_encoder_state(parameters, sizes), assign=True)
    return model


_LOADERS: dict[tuple[str, str, str], Callable[[Path], FactorisedEncoder]] = {
    ("scenic", "vivit", "factorised_encoder"): _scenic_factorised_encoder,
}
"""By format, family and variant."""
