"""What the network itself says about a labelled list of videos: decoded as the server does, computed by torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tubelet.checkpoints.load import load_model
from tubelet.demo.dataset import read_table
from tubelet.export.bundle import contract_of, read_labels
from tubelet.models.vivit import FactorisedEncoder
from tubelet.preprocess.geometry import cut_units
from tubelet.preprocess.normalise import normalise
from tubelet.preprocess.prepare import prepare_video
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.recipe import Recipe
from tubelet.spec.request import Request

__all__ = ["TorchEvaluation", "evaluate_in_torch", "evaluate_model"]


@dataclass(frozen=True, slots=True)
class TorchEvaluation:
    """Answers of a network to a labelled list."""

    wanted: tuple[str, ...]
    found: tuple[str, ...]
    """The label of the highest logit, video by video."""

    @property
    def top1(self) -> float:
        """Part of the videos whose label was found, 0 to 1."""
        return _agreement(self.wanted, self.found)

    def top1_by_label(self) -> dict[str, float]:
        """`top1` of each label's videos, in the order in which the labels come."""
        pairs = list(zip(self.wanted, self.found, strict=True))
        return {
            label: _agreement(*zip(*[pair for pair in pairs if pair[0] == label], strict=True))
            for label in dict.fromkeys(self.wanted)
        }


def evaluate_in_torch(table: Path, *, recipe: Path, protocol: str | None = None) -> TorchEvaluation:
    """Classifies a ``labels.csv`` by a recipe's checkpoint.

    Args:
        table: CSV with the columns ``video,label``, videos relative to it.
        recipe: the recipe's file; its checkpoint and its labels lie where it says.
        protocol: None takes the recipe's default.

    Raises:
        RecipeError: recipe or checkpoint are unfit.
        InvalidVideoError: a video of the table is unfit.
    """
    plan = Recipe.load(recipe)
    source = plan.checkpoint
    model = load_model(recipe.parent / source.file, format=source.format, family=plan.family, variant=plan.variant)
    labels = read_labels(plan, recipe.parent)[plan.heads[0].name]
    return evaluate_model(table, model=model, recipe=plan, labels=labels, protocol=protocol)


def evaluate_model(
    table: Path, *, model: FactorisedEncoder, recipe: Recipe, labels: Sequence[str], protocol: str | None = None
) -> TorchEvaluation:
    """As `evaluate_in_torch`, for a network in memory, which is left in eval mode."""
    contract = contract_of(recipe, model.sizes, {recipe.heads[0].name: tuple(labels)})
    parameters = {} if protocol is None else {"protocol": protocol}
    request = Request.from_parameters(parameters, contract, Limits())
    rows = read_table(table)
    model.eval()
    found = [labels[int(_logits(path.read_bytes(), request, contract, model).argmax())] for path, _ in rows]
    return TorchEvaluation(tuple(label for _, label in rows), tuple(found))


@torch.inference_mode()
def _logits(video: bytes, request: Request, contract: Contract, model: FactorisedEncoder) -> torch.Tensor:
    """Logits `[C]`, the mean over the protocol's views."""
    prepared = prepare_video(video, request, contract, Limits())
    units = cut_units(prepared.frames, prepared.unit_frames, prepared.crops, size_px=contract.crop.size_px)
    features = model.encode(torch.from_numpy(normalise(contract.normalisation, units)))  # [U*R, D], crop fastest
    num_crops = len(prepared.crops)
    rows = prepared.clip_units[:, None] * num_crops + np.arange(num_crops)[:, None]  # [K, R, n]
    views = torch.from_numpy(rows.reshape(-1, contract.units_per_clip))
    return model.classify(features[views]).mean(dim=0)


def _agreement(wanted: Sequence[str], found: Sequence[str]) -> float:
    return sum(one == other for one, other in zip(wanted, found, strict=True)) / len(wanted)
