"""A bundle's graphs in this process: the same functions and settings as the server's steps, without a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tubelet.averaging import average_views, view_rows
from tubelet.engines.base import Engine, EngineSettings
from tubelet.engines.open import open_engine
from tubelet.preprocess.geometry import cut_units
from tubelet.preprocess.prepare import prepare_video
from tubelet.spec.engine import EngineName, Precision, graph_file
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Manifest
from tubelet.spec.request import Request

__all__ = ["Direct", "Ready"]


@dataclass(frozen=True, slots=True)
class Ready:
    """A video, as far as the encoder."""

    units: NDArray[np.uint8]
    """``[U * R, t, S, S, 3]``."""
    feeds: dict[str, NDArray[Any]]
    """What else the temporal stage wants: CLIP_UNITS, CLIP_POSITIONS, CROPS."""


class Direct:
    """Encoder and temporal stage by one engine, the encoder at a precision."""

    def __init__(self, bundle: Path, engine: EngineName, precision: Precision) -> None:
        # As in the step `sample`.
        cv2.setNumThreads(1)
        manifest = Manifest.load(bundle)
        self.contract, self.largest_batch = manifest.contract, manifest.build.largest_batch
        settings = EngineSettings.of_mode(engine, precision, "latency")
        self._encoder = open_engine(bundle / graph_file("encoder", precision), settings)
        self._temporal = None if self.contract.is_joint else _open_temporal(bundle, engine)

    def prepare(self, video: bytes, protocol: str) -> Ready:
        """Decodes and cuts a video."""
        limits = Limits()
        request = Request.from_parameters({"protocol": protocol}, self.contract, limits)
        prepared = prepare_video(video, request, self.contract, limits)
        units = cut_units(prepared.frames, prepared.unit_frames, prepared.crops, size_px=self.contract.crop.size_px)
        feeds = {"CLIP_UNITS": prepared.clip_units, "CROPS": prepared.crops, "CLIP_POSITIONS": prepared.clip_positions}
        return Ready(units, feeds)

    def encode(self, units: NDArray[np.uint8]) -> NDArray[np.float32]:
        """FEATURES or LOGITS of units, in batches as large as the server's."""
        starts = range(0, len(units), self.largest_batch)
        runs = [self._encoder.run({"UNITS": units[i : i + self.largest_batch]}) for i in starts]
        return np.concatenate([array for run in runs for array in run.values()])

    def infer(self, ready: Ready) -> NDArray[np.float32]:
        """LOGITS ``[C]``: encoder, temporal stage, average."""
        encoded = self.encode(ready.units)
        if self._temporal is None:
            views = encoded[view_rows(ready.feeds["CLIP_UNITS"], len(ready.feeds["CROPS"]))[:, 0]]
        else:
            views = self._temporal.run({"FEATURES": encoded, **ready.feeds})["VIEW_LOGITS"]
        logits: NDArray[np.float32] = average_views(views, self.contract.aggregation, self.contract.heads)
        return logits

    def classify(self, video: bytes, protocol: str) -> NDArray[np.float32]:
        """All of it."""
        return self.infer(self.prepare(video, protocol))


def _open_temporal(bundle: Path, engine: EngineName) -> Engine:
    graph = bundle / graph_file("temporal")
    return open_engine(graph, EngineSettings.of_temporal(engine, graph))
