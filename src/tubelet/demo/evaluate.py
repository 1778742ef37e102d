"""What the network itself says about a labelled list of videos: decoded as the server does, computed by torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tubelet.averaging import average_views, view_rows
from tubelet.demo.dataset import read_table
from tubelet.export.bundle import contract_of, load_plan, read_labels
from tubelet.models.network import TwoStageVideoNetwork, VideoNetwork
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
    model = load_plan(plan, recipe.parent / plan.checkpoint.file)
    labels = read_labels(plan, recipe.parent)[plan.heads[0].name]
    return evaluate_model(table, model=model, recipe=plan, labels=labels, protocol=protocol)


def evaluate_model(
    table: Path, *, model: VideoNetwork, recipe: Recipe, labels: Sequence[str], protocol: str | None = None
) -> TorchEvaluation:
    """As `evaluate_in_torch`, for a network in memory, which is left in eval mode."""
    contract = contract_of(recipe, model, {recipe.heads[0].name: tuple(labels)})
    parameters = {} if protocol is None else {"protocol": protocol}
    request = Request.from_parameters(parameters, contract, Limits())
    rows = read_table(table)
    model.eval()
    found = [labels[int(_logits(path.read_bytes(), request, contract, model).argmax())] for path, _ in rows]
    return TorchEvaluation(tuple(label for _, label in rows), tuple(found))


@torch.inference_mode()
def _logits(video: bytes, request: Request, contract: Contract, model: VideoNetwork) -> NDArray[np.float32]:
    """Logits `[C]` of all views of the protocol together."""
    prepared = prepare_video(video, request, contract, Limits())
    units = cut_units(prepared.frames, prepared.unit_frames, prepared.crops, size_px=contract.crop.size_px)
    pixels = torch.from_numpy(normalise(contract.normalisation, units))  # [U*R, t, S, S, 3], crop fastest
    num_crops = len(prepared.crops)
    rows = torch.from_numpy(view_rows(prepared.clip_units, num_crops))  # [V, n]
    if isinstance(model, TwoStageVideoNetwork):
        positions = torch.from_numpy(prepared.clip_positions).repeat_interleave(num_crops, dim=0)  # [V, n]
        views = model.classify(model.encode(pixels)[rows], positions)
    else:
        views = model(pixels)[rows[:, 0]]
    return average_views(views.numpy(), contract.aggregation, contract.heads)


def _agreement(wanted: Sequence[str], found: Sequence[str]) -> float:
    return sum(one == other for one, other in zip(wanted, found, strict=True)) / len(wanted)
