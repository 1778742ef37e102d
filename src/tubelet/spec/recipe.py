"""How to build a bundle: a TOML file in ``export/recipes/``.

A recipe gives what the checkpoint cannot. Sizes are read from the checkpoint's tensors; where the recipe states one
too, a contradiction is an error.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tubelet.spec.bounds import MOST_LARGEST_BATCH, within
from tubelet.spec.errors import RecipeError
from tubelet.spec.manifest import Aggregation, CheckpointFormat
from tubelet.spec.network import Network
from tubelet.spec.pipeline import Crop, FullVideo, Normalisation, Resize, Sampler
from tubelet.spec.strict import decode

__all__ = ["CheckpointSource", "HeadRecipe", "Published", "Recipe"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSource:
    """Where the weights come from."""

    format: CheckpointFormat
    file: str
    """Path relative to the recipe; ``tubelet export --checkpoint FILE`` takes another."""
    sha256: str | None
    """Of the file, where its authors or others have published it; another file is then refused."""
    source: str
    """Where the file was released: an address, or a sentence."""
    licence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadRecipe:
    """One classifier of the network, in the order of its logits."""

    name: str
    activation: Literal["softmax", "sigmoid"]
    labels: str
    """Path of a text file relative to the recipe, one label per line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What its authors say of a model; shown on its card, and never used to compute."""

    title: str
    """As the paper calls the model, for example ``ViViT-B/16x2 FE``."""
    paper: str
    """For example ``arXiv:2103.15691``."""
    code: str
    """Repository and path of the reference implementation."""
    dataset: str
    accuracy: str
    """What is stated, for which views, and where; a sentence."""
    aggregation_in_paper: str
    aggregation_in_code: str
    weights: Literal["released", "not_released", "ours"]
    notes: tuple[str, ...]
    """Traps and differences between paper, code and weights, a sentence each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What `tubelet export` reads."""

    name: str
    network: Network
    checkpoint: CheckpointSource
    sampler: Sampler
    full_video: FullVideo | None
    resize: Resize
    crop: Crop
    normalisation: Normalisation
    protocols: tuple[str, ...]
    default_protocol: str
    aggregation: Aggregation
    largest_batch: int
    """Units in one run of the encoder, at most: memory against speed."""
    heads: tuple[HeadRecipe, ...]
    product: str | None
    """As `tubelet.spec.manifest.Contract.product`."""
    published: Published

    def __post_init__(self) -> None:
        within(MOST_LARGEST_BATCH, largest_batch=self.largest_batch)

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
