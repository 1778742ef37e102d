"""What stands around a network in a bundle: the modules that become its graphs.

Axes are those of `tubelet.spec.tensors`: F frames, U distinct units of t frames, R crops of side S, K clips of n units,
V = K*R views (view k*R+r is clip k in crop r), D width, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tubelet.models.network import TwoStageVideoNetwork, VideoNetwork
from tubelet.spec.manifest import Contract
from tubelet.spec.pipeline import Normalisation

__all__ = ["AttendViews", "AverageUnits", "AverageViews", "ClassifyViews", "EncodeUnits", "MakeUnits"]


class MakeUnits(nn.Module):
    """Cuts the encoder's inputs out of the frames: step ``units``."""

    def __init__(self, contract: Contract) -> None:
        super().__init__()
        self.side = contract.crop.size_px

    def forward(self, frames: Tensor, unit_frames: Tensor, crops: Tensor) -> Tensor:
        """uint8 `[F, h, w, 3]`, int `[U, t]`, int `[R, 2]` (y, x) -> uint8 `[U*R, t, S, S, 3]`, row u*R+r.

        Columns are cut once per frame, rows once per unit: both are copies of whole runs of bytes.
        """
        height, num_crops, side = frames.shape[1], crops.shape[0], self.side
        window = torch.arange(side)
        columns = (crops[:, 1:].long() + window).flatten()  # [R*S]
        strips = frames.index_select(2, columns).reshape(-1, side, 3)  # [F*h*R, S, 3]
        rows = crops[:, :1].long() + window  # [R, S]
        crop = torch.arange(num_crops).unsqueeze(1)
        starts = (unit_frames.long() * height)[:, None, :, None]  # [U, 1, t, 1]
        index = (starts + rows[None, :, None, :]) * num_crops + crop[None, :, None]  # [U, R, t, S]
        return strips.index_select(0, index.flatten()).reshape(-1, unit_frames.shape[1], side, side, 3)


class EncodeUnits(nn.Module):
    """Normalises bytes and runs the network, or its first stage: step ``encoder``."""

    scale: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: VideoNetwork, normalisation: Normalisation) -> None:
        super().__init__()
        self.model = model
        self.encode = model.encode if isinstance(model, TwoStageVideoNetwork) else model.forward
        self.register_buffer("scale", torch.tensor(normalisation.scale), persistent=False)
        self.register_buffer("mean", torch.tensor(normalisation.mean), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std), persistent=False)

    def forward(self, units: Tensor) -> Tensor:
        """uint8 `[u, t, S, S, 3]` -> FEATURES float32 `[u, D]`, or LOGITS `[u, C]` of a joint network."""
        return self.encode((units.float() * self.scale - self.mean) / self.std)


class ClassifyViews(nn.Module):
    """Puts the features of each view together and runs the network's second stage: step ``temporal``."""

    def __init__(self, model: TwoStageVideoNetwork) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, clip_units: Tensor, crops: Tensor) -> Tensor:
        """float32 `[U*R, D]`, int `[K, n]`, int `[R, 2]` (its length counts) -> VIEW_LOGITS float32 `[K*R, C]`."""
        return self.model.classify(_gather(features, _view_rows(clip_units, crops)))


class AttendViews(nn.Module):
    """As `ClassifyViews`, for a network that knows where each unit stood, and says how much it looked at it."""

    def __init__(self, model: TwoStageVideoNetwork) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, features: Tensor, clip_units: Tensor, clip_positions: Tensor, crops: Tensor
    ) -> tuple[Tensor, Tensor]:
        """float32 `[U*R, D]`, int `[K, n]` twice, int `[R, 2]` -> VIEW_LOGITS `[K*R, C]`, ATTENTION `[K*R, n]`."""
        rows = _view_rows(clip_units, crops)
        positions = clip_positions.long()[:, None, :].expand(-1, crops.shape[0], -1).reshape(rows.shape)
        return self.model.attend(_gather(features, rows), positions)


class AverageViews(nn.Module):
    """Views to one answer: step ``average``; see `tubelet.averaging`, which is the same in NumPy."""

    def __init__(self, contract: Contract) -> None:
        super().__init__()
        self.aggregation = contract.aggregation
        self.sizes = [head.num_classes for head in contract.heads]
        self.activations = [head.activation for head in contract.heads]
        self.has_product = contract.product is not None

    def forward(self, view_logits: Tensor) -> tuple[Tensor, ...]:
        """float32 `[V, C]` -> LOGITS `[C]`, PROBABILITIES `[C]`, and PRODUCT where the contract has one."""
        logits = self._aggregate(view_logits)
        parts = [
            part.softmax(dim=0) if activation == "softmax" else part.sigmoid()
            for part, activation in zip(torch.split(logits, self.sizes), self.activations, strict=True)
        ]
        answer = logits, torch.cat(parts)
        return (*answer, _outer(parts)) if self.has_product else answer

    def _aggregate(self, views: Tensor) -> Tensor:
        if self.aggregation == "mean_logits":
            return views.mean(dim=0)
        if self.aggregation == "sum_logits":
            return views.sum(dim=0)
        parts = zip(torch.split(views, self.sizes, dim=1), self.activations, strict=True)
        return torch.cat([_mean_softmax(p) if kind == "softmax" else _mean_sigmoid(p) for p, kind in parts])


class AverageUnits(nn.Module):
    """As `AverageViews`, from the logits of a joint network's distinct units."""

    def __init__(self, contract: Contract) -> None:
        super().__init__()
        self.average = AverageViews(contract)

    def forward(self, unit_logits: Tensor, clip_units: Tensor, crops: Tensor) -> tuple[Tensor, ...]:
        """float32 `[U*R, C]`, int `[K, 1]`, int `[R, 2]` -> as `AverageViews`, then VIEW_LOGITS `[K*R, C]`."""
        views = unit_logits.index_select(0, _view_rows(clip_units, crops).flatten())
        return (*self.average(views), views)


def _view_rows(clip_units: Tensor, crops: Tensor) -> Tensor:
    """The encoder's rows of each view's units: `[K, n]` -> `[K*R, n]`."""
    num_crops = crops.shape[0]
    rows = clip_units.long()[:, None, :] * num_crops + torch.arange(num_crops)[None, :, None]  # [K, R, n]
    return rows.flatten(0, 1)


def _gather(features: Tensor, rows: Tensor) -> Tensor:
    """`[x, D]`, `[V, n]` -> `[V, n, D]`."""
    return features.index_select(0, rows.flatten()).reshape(-1, rows.shape[1], features.shape[1])


def _outer(parts: Iterable[Tensor]) -> Tensor:
    first, *others = parts
    for other in others:
        first = (first[:, None] * other[None, :]).flatten()
    return first


def _mean_softmax(logits: Tensor) -> Tensor:
    """`[V, C]` -> logits `[C]` whose softmax is the mean of the views' softmax."""
    normaliser = logits.logsumexp(dim=1, keepdim=True)
    return _log_mean_exp(logits - normaliser) + normaliser.mean()


def _mean_sigmoid(logits: Tensor) -> Tensor:
    """`[V, C]` -> logits `[C]` whose sigmoid is the mean of the views' sigmoid."""
    return _log_mean_exp(F.logsigmoid(logits)) - _log_mean_exp(F.logsigmoid(-logits))


def _log_mean_exp(values: Tensor) -> Tensor:
    height = values.amax(dim=0)
    mean: Tensor = (values - height).exp().mean(dim=0).log()
    return height + mean
