"""The ONNX files of a bundle: a graph for each step after the decoder, every axis that a request decides dynamic."""

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

from tubelet.export.graphs import AttendViews, AverageUnits, AverageViews, ClassifyViews, EncodeUnits, MakeUnits
from tubelet.export.precision import store_counts, take_shapes_from_floats
from tubelet.models.network import TwoStageVideoNetwork, VideoNetwork
from tubelet.spec.engine import graph_file
from tubelet.spec.manifest import Contract

__all__ = ["EXTERNAL_DATA_BYTES", "OPSET", "export_graphs"]

OPSET = 20
"""The first with GELU's tanh form. 23 adds Attention: ONNX Runtime 1.31 runs that no faster, fewer engines read it."""

EXTERNAL_DATA_BYTES = 1_000_000_000
"""Weights of more bytes lie beside the graph, in ``<graph>.data``: a protobuf message ends at 2 GiB."""


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


def export_graphs(
    model: VideoNetwork, contract: Contract, *, out: Path, external_data_bytes: int = EXTERNAL_DATA_BYTES
) -> Iterator[str]:
    """Writes the graphs of a model into the folder ``out``, checked by ONNX's own checker.

    Each graph's metadata holds ``contract_digest`` and ``step``.

    Yields:
        The name of each file when it is there, in the order of the steps.
    """
    for graph in _graphs(model, contract):
        path = out / graph_file(graph.step)
        _write(
            graph, path, metadata={"contract_digest": contract.digest, "step": graph.step}, limit=external_data_bytes
        )
        onnx.checker.check_model(path, full_check=True)
        yield path.name


def _graphs(model: VideoNetwork, contract: Contract) -> Iterator[_Graph]:
    t, side, _, channels = contract.unit_shape
    crops = torch.zeros(3, 2, dtype=torch.int32)
    yield _Graph(
        step="units",
        module=MakeUnits(contract),
        inputs={
            "FRAMES": torch.zeros(3, side + 2, side + 4, channels, dtype=torch.uint8),
            "UNIT_FRAMES": torch.zeros(2, t, dtype=torch.int32),
            "CROPS": crops,
        },
        axes=({0: "F", 1: "h", 2: "w"}, {0: "U"}, {0: "R"}),
        outputs=("UNITS",),
    )
    yield _Graph(
        step="encoder",
        module=EncodeUnits(model, contract.normalisation),
        inputs={"UNITS": torch.zeros(2, *contract.unit_shape, dtype=torch.uint8)},
        axes=({0: "u"},),
        outputs=("FEATURES",) if isinstance(model, TwoStageVideoNetwork) else ("LOGITS",),
    )
    answer = ("LOGITS", "PROBABILITIES") + (("PRODUCT",) if contract.product is not None else ())
    if isinstance(model, TwoStageVideoNetwork):
        yield _temporal_graph(model, contract, crops)
        yield _Graph(
            step="average",
            module=AverageViews(contract),
            inputs={"VIEW_LOGITS": torch.zeros(2, contract.num_classes)},
            axes=({0: "V"},),
            outputs=answer,
        )
    else:
        logits = torch.zeros(6, contract.num_classes)
        yield _Graph(
            step="average",
            module=AverageUnits(contract),
            inputs={"UNIT_LOGITS": logits, "CLIP_UNITS": torch.zeros(2, 1, dtype=torch.int32), "CROPS": crops},
            axes=({0: "x"}, {0: "K"}, {0: "R"}),
            outputs=(*answer, "VIEW_LOGITS"),
        )


def _temporal_graph(model: TwoStageVideoNetwork, contract: Contract, crops: Tensor) -> _Graph:
    # An example length of 1 would be taken for a constant.
    n = max(2, contract.units_per_clip) if contract.geometry.any_length else contract.units_per_clip
    clips: dict[int, str] = {0: "K", 1: "n"} if contract.geometry.any_length else {0: "K"}
    features = torch.zeros(6, model.feature_dim)
    clip_units = torch.zeros(2, n, dtype=torch.int32)
    if contract.geometry.attention:
        return _Graph(
            step="temporal",
            module=AttendViews(model),
            # A tensor that comes twice would be traced as one input.
            inputs={
                "FEATURES": features,
                "CLIP_UNITS": clip_units,
                "CLIP_POSITIONS": clip_units.clone(),
                "CROPS": crops,
            },
            axes=({0: "x"}, clips, clips, {0: "R"}),
            outputs=("VIEW_LOGITS", "ATTENTION"),
        )
    return _Graph(
        step="temporal",
        module=ClassifyViews(model),
        inputs={"FEATURES": features, "CLIP_UNITS": clip_units, "CROPS": crops},
        axes=({0: "x"}, clips, {0: "R"}),
        outputs=("VIEW_LOGITS",),
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
    take_shapes_from_floats(program.model.graph)
    store_counts(program.model.graph)
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
            # Two inputs have one axis in common, under one name, which is what we want.
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)
            yield
    finally:
        logger.setLevel(level)
