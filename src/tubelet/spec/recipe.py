"""How to build a bundle: a TOML file in ``export/recipes/``.

A recipe gives what the checkpoint cannot. Sizes are read from the checkpoint's tensors; where the recipe states one
too, a contradiction is an error.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tubelet.spec.errors import RecipeError
from tubelet.spec.manifest import Crop, Normalisation, Resize, Sampler
from tubelet.spec.strict import decode

__all__ = ["CheckpointSource", "HeadRecipe", "Recipe"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSource:
    """Where the weights come from."""

    format: Literal["scenic"]
    file: str
    """Path relative to the recipe; ``tubelet export --checkpoint FILE`` takes another."""
    source: str
    licence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadRecipe:
    """One classifier of the network, in the order of its logits."""

    name: str
    activation: Literal["softmax", "sigmoid"]
    labels: str
    """Path of a text file relative to the recipe, one label per line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What `tubelet export` reads."""

    name: str
    family: Literal["vivit"]
    variant: Literal["factorised_encoder"]
    checkpoint: CheckpointSource
    sampler: Sampler
    resize: Resize
    crop: Crop
    normalisation: Normalisation
    protocols: tuple[str, ...]
    default_protocol: str
    aggregation: Literal["mean_logits"]
    heads: tuple[HeadRecipe, ...]

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Reads a recipe file.

        Raises:
            RecipeError: no such file, no TOML, or unknown, missing or unfit keys.
        """
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise RecipeError("bad_recipe", f"cannot read {path}: {exc.strerror}") from exc
        except ValueError as exc:
            raise RecipeError("bad_recipe", f"{path} is not TOML: {exc}") from exc
        return decode(cls, data, where="recipe")
