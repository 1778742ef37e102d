"""The four graphs of a bundle: modules beside the network, and their ONNX files.

Axes are those of `tubelet.spec.tensors`: F frames, U distinct units of t frames, R crops of side S, K clips of n units,
V = K*R views (view k*R+r is clip k in crop r), D width, C classes. Every axis that a request decides is dynamic.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from tubelet.models.vivit import FactorisedEncoder
from tubelet.spec.manifest import Contract, Normalisation

__all__ = [
    "EXTERNAL_DATA_BYTES",
    "GRAPH_STEPS",
    "OPSET",
    "Average",
    "ClassifyViews",
    "EncodeUnits",
    "MakeUnits",
    "export_graphs",
    "graph_file",
]

GRAPH_STEPS = ("units", "encoder", "temporal", "average")
"""The steps of a served model that are graphs; the other, ``sample``, decodes."""

OPSET = 20
"""The first with GELU's tanh form. 23 adds Attention: ONNX Runtime 1.31 runs that no faster, fewer engines read it."""

EXTERNAL_DATA_BYTES = 1_000_000_000
"""Weights of more bytes lie beside the graph, in ``<graph>.data``: a protobuf message ends at 2 GiB."""


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
    """Normalises bytes and runs the network's first stage: step ``encoder``."""

    scale: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: FactorisedEncoder, normalisation: Normalisation) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("scale", torch.tensor(normalisation.scale), persistent=False)
        self.register_buffer("mean", torch.tensor(normalisation.mean), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std), persistent=False)

    def forward(self, units: Tensor) -> Tensor:
        """uint8 `[u, t, S, S, 3]` -> FEATURES float32 `[u, D]`."""
        return self.model.encode((units.float() * self.scale - self.mean) / self.std)


class ClassifyViews(nn.Module):
    """Puts the features of each view together and runs the network's second stage: step ``temporal``."""

    def __init__(self, model: FactorisedEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, clip_units: Tensor, crops: Tensor) -> Tensor:
        """float32 `[U*R, D]`, int `[K, n]`, int `[R, 2]` (its length counts) -> VIEW_LOGITS float32 `[K*R, C]`."""
        num_crops = crops.shape[0]
        rows = clip_units.long()[:, None, :] * num_crops + torch.arange(num_crops)[None, :, None]  # [K, R, n]
        views = features.index_select(0, rows.flatten()).reshape(-1, clip_units.shape[1], features.shape[1])
        return self.model.classify(views)


class Average(nn.Module):
    """Views to one answer: step ``average``. Logits are averaged, then each head's activation is applied."""

    def __init__(self, contract: Contract) -> None:
        super().__init__()
        self.heads = [(head.num_classes, head.activation) for head in contract.heads]

    def forward(self, view_logits: Tensor) -> tuple[Tensor, Tensor]:
        """float32 `[V, C]` -> LOGITS `[C]`, PROBABILITIES `[C]`."""
        logits = view_logits.mean(dim=0)
        parts = torch.split(logits, [num_classes for num_classes, _ in self.heads])
        activations = [activation for _, activation in self.heads]
        probabilities = [
            part.softmax(dim=0) if activation == "softmax" else part.sigmoid()
            for part, activation in zip(parts, activations, strict=True)
        ]
        return logits, torch.cat(probabilities)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Graph:
    """What `torch.onnx.export` must know of a step."""

    step: str
    module: nn.Module
    inputs: dict[str, Tensor]
    """An example of each; its sizes mean nothing on the axes that `axes` names."""
    axes: tuple[dict[int, str], ...]
    """Names of the dynamic axes of each input."""
    outputs: tuple[str, ...]


def graph_file(step: str) -> str:
    """Name of a step's graph in a bundle."""
    return f"{step}.onnx"


def export_graphs(
    model: FactorisedEncoder, contract: Contract, *, out: Path, external_data_bytes: int = EXTERNAL_DATA_BYTES
) -> Iterator[str]:
    """Writes the graphs of a model into the folder ``out``, checked by ONNX's own checker.

    Each graph's metadata holds ``contract_digest`` and ``step``.

    Yields:
        The name of each file when it is there, in the order of `GRAPH_STEPS`.
    """
    for graph in _graphs(model, contract):
        path = out / graph_file(graph.step)
        _write(
            graph, path, metadata={"contract_digest": contract.digest, "step": graph.step}, limit=external_data_bytes
        )
        onnx.checker.check_model(path, full_check=True)
        yield path.name


def _graphs(model: FactorisedEncoder, contract: Contract) -> Iterator[_Graph]:
    t, side, _, channels = contract.unit_shape
    frames = torch.zeros(3, side + 2, side + 4, channels, dtype=torch.uint8)
    crops = torch.zeros(3, 2, dtype=torch.int32)
    yield _Graph(
        step="units",
        module=MakeUnits(contract),
        inputs={"FRAMES": frames, "UNIT_FRAMES": torch.zeros(2, t, dtype=torch.int32), "CROPS": crops},
        axes=({0: "F", 1: "h", 2: "w"}, {0: "U"}, {0: "R"}),
        outputs=("UNITS",),
    )
    yield _Graph(
        step="encoder",
        module=EncodeUnits(model, contract.normalisation),
        inputs={"UNITS": torch.zeros(2, *contract.unit_shape, dtype=torch.uint8)},
        axes=({0: "u"},),
        outputs=("FEATURES",),
    )
    clip_units = torch.zeros(2, contract.units_per_clip, dtype=torch.int32)
    yield _Graph(
        step="temporal",
        module=ClassifyViews(model),
        inputs={"FEATURES": torch.zeros(6, contract.geometry.feature_dim), "CLIP_UNITS": clip_units, "CROPS": crops},
        axes=({0: "x"}, {0: "K"}, {0: "R"}),
        outputs=("VIEW_LOGITS",),
    )
    yield _Graph(
        step="average",
        module=Average(contract),
        inputs={"VIEW_LOGITS": torch.zeros(2, contract.num_classes)},
        axes=({0: "V"},),
        outputs=("LOGITS", "PROBABILITIES"),
    )


def _write(graph: _Graph, path: Path, *, metadata: dict[str, str], limit: int) -> None:
    dynamic = tuple({axis: torch.export.Dim(name) for axis, name in axes.items()} for axes in graph.axes)
    with _quiet():
        program = torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise TypeError("torch.onnx.export(dynamo=True) gave no program")
    # The exporter notes Python stack traces, with this machine's paths, on every node.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    program.model.metadata_props.update(metadata)
    tensors = [value.const_value for value in program.model.graph.initializers.values()]
    weights = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    program.save(path, external_data=weights > limit)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what torch's exporter tells its own developers."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
