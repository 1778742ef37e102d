"""Bundles of random networks, for the parts of the GPU benchmark that take one: with graphs, or only their names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from gpu_networks import builder, contract_for, random_network

from tubelet import __version__
from tubelet.export.count import on_meta
from tubelet.models.network import VideoNetwork
from tubelet.spec.engine import graph_file
from tubelet.spec.manifest import Build, Checkpoint, Contract, Manifest
from tubelet.spec.tensors import GRAPH_STEPS, step_tensors

__all__ = ["exported_bundle", "placeholder_bundle"]


def placeholder_bundle(name: str, folder: Path, *, tiny: bool, largest_batch: int) -> Contract:
    """A bundle whose graphs are empty files: for a repository whose steps do without them."""
    network = on_meta(builder(name, tiny=tiny))
    contract = _labelled(contract_for(name, network), folder)
    for step in step_tensors(contract):
        if step in GRAPH_STEPS:
            (folder / graph_file(step)).touch()
    _save(contract, network, folder, largest_batch=largest_batch)
    return contract


def exported_bundle(name: str, folder: Path, *, tiny: bool) -> Contract:
    """A bundle with the graphs of `gpu_networks.random_network`.

    Raises:
        ImportError: PyTorch's exporter is not complete here: it takes onnx and onnxscript.
    """
    from tubelet.export.onnx import export_graphs

    network = random_network(name, tiny=tiny, device=torch.device("cpu"))
    contract = _labelled(contract_for(name, network), folder)
    for _ in export_graphs(network, contract, out=folder):
        pass
    _save(contract, network, folder, largest_batch=32)
    return contract


def _labelled(contract: Contract, folder: Path) -> Contract:
    folder.mkdir(parents=True)
    labels = "".join(f"class {i}\n" for i in range(contract.num_classes))
    (folder / "labels.txt").write_text(labels, encoding="utf-8")
    return replace(contract, protocols=("1x1", "10x3"), default_protocol="10x3", full_video=None)


def _save(contract: Contract, network: VideoNetwork, folder: Path, *, largest_batch: int) -> None:
    build = Build(
        checkpoint=Checkpoint(format="tubelet", file="none", sha256="none", source="random numbers", licence="none"),
        largest_batch=largest_batch,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        opset=20,
        tools={"tubelet": __version__},
        int8=None,
        verified=(),
    )
    Manifest(contract=contract, contract_digest=contract.digest, build=build).save(folder)
