"""The steps ``encoder`` and ``temporal`` of a served model, their network on the card by PyTorch: for the benchmark.

The server's own steps never import torch, and in production Triton's TensorRT backend does this work. Here everything
but the engine is the server's: chunks, deadlines, metrics, answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gpu_lowering import lower
from gpu_networks import contract_for, random_network
from gpu_pipeline import full_precision
from numpy.typing import NDArray

from tubelet.engines.base import Arrays, Engine, EngineSettings
from tubelet.export.graphs import ClassifyViews, MakeUnits
from tubelet.models.network import TwoStageVideoNetwork
from tubelet.spec.manifest import Contract

__all__ = ["CARD_FILE", "CardNetwork", "Stage", "triton_model"]

Stage = Literal["encoder", "temporal"]

CARD_FILE = "card.json"
"""Beside a step: which network, on which device, at which precision."""


class CardNetwork:
    """A two-stage network on a device: its encoder at a precision, its temporal stage at float32.

    Weights are random, made on the device from one seed: wherever it is made, the numbers are the same.
    """

    def __init__(self, name: str, *, tiny: bool, device: str, precision: str) -> None:
        full_precision()
        self.device = torch.device(device)
        network = random_network(name, tiny=tiny, device=self.device)
        if not isinstance(network, TwoStageVideoNetwork):
            raise TypeError(f"{name} has one stage, a network of two is expected")
        self.contract: Contract = contract_for(name, network)
        self.encoder = lower(network, self.contract.normalisation, precision, rewritten=True)
        self.temporal, self.units = ClassifyViews(network), MakeUnits(self.contract)

    @classmethod
    def beside(cls, folder: Path) -> CardNetwork:
        """The network that ``card.json`` in ``folder`` names."""
        return cls(**json.loads((folder / CARD_FILE).read_text()))

    @torch.inference_mode()
    def encode(self, units: NDArray[np.uint8]) -> NDArray[np.float32]:
        """UNITS uint8 ``[u, t, S, S, 3]`` -> FEATURES float32 ``[u, D]``."""
        features: NDArray[np.float32] = self.encoder(self._there(units)).cpu().numpy()
        return features

    @torch.inference_mode()
    def classify(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """FEATURES, CLIP_UNITS, CROPS -> VIEW_LOGITS float32 ``[K*R, C]``."""
        with self.device:
            views = self.temporal(*(self._there(feeds[name]) for name in ("FEATURES", "CLIP_UNITS", "CROPS")))
        logits: NDArray[np.float32] = views.cpu().numpy()
        return logits

    @torch.inference_mode()
    def see(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """FRAMES, UNIT_FRAMES, CROPS, CLIP_UNITS -> VIEW_LOGITS: units are cut on the card, and never leave it."""
        frames, unit_frames, crops, clip_units = (
            self._there(feeds[name]) for name in ("FRAMES", "UNIT_FRAMES", "CROPS", "CLIP_UNITS")
        )
        with self.device:
            units = self.units(frames, unit_frames, crops)
            views = self.temporal(self.encoder(units), clip_units, crops)
        logits: NDArray[np.float32] = views.cpu().numpy()
        return logits

    def _there(self, array: NDArray[Any]) -> torch.Tensor:
        # What Triton lends may not be written to, which torch would warn of; on a card this copy is the only one.
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(self.device)


class _CardEngine:
    """A stage of a `CardNetwork` as an engine."""

    def __init__(self, network: CardNetwork, stage: Stage) -> None:
        self._network, self._stage = network, stage
        self.metadata: Mapping[str, str] = {}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """See `tubelet.engines.base.Engine.run`."""
        if self._stage == "encoder":
            return {"FEATURES": self._network.encode(feeds["UNITS"])}
        return {"VIEW_LOGITS": self._network.classify(feeds)}


def triton_model(stage: Stage) -> type[Any]:
    """The class that Triton makes a step of; importing its base takes a Triton around it."""
    step = import_module(f"tubelet.server.steps.{stage}")

    class CardModel(step.TritonPythonModel):  # type: ignore[name-defined, misc]
        """A step of the server, on a card."""

        def open_graph(self, filename: str, settings: EngineSettings) -> Engine:
            """A network on the card in place of the graph."""
            return _CardEngine(CardNetwork.beside(self.folder), stage)

    return CardModel
