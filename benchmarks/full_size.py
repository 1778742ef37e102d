"""Bundles of the papers' networks at full size, with random weights: written once, and kept in ``build/bench``."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from tubelet import __version__
from tubelet.demo.clips import write_clips
from tubelet.export.bundle import contract_of, label_file, read_labels
from tubelet.export.count import count_macs, count_parameters, on_meta
from tubelet.export.onnx import OPSET, export_graphs
from tubelet.export.papers import FULL_SIZE
from tubelet.export.staging import staging
from tubelet.models.network import VideoNetwork
from tubelet.spec.errors import TubeletError
from tubelet.spec.manifest import Build, Checkpoint, Manifest
from tubelet.spec.recipe import Recipe

__all__ = ["FOLDER", "TUBELET", "full_size_bundle", "gflop", "random_network"]

FOLDER = Path("build/bench")
TUBELET = Path(sys.executable).with_name("tubelet")
RECIPES = Path("export/recipes")
PACKAGE = Path("src/tubelet")
SOURCES = ("models/*.py", "export/graphs.py", "export/onnx.py", "export/papers.py", "export/quantise.py")
"""What bundles are made by: when one of these changes, they are made again."""
CALIBRATION_CLIPS = 2

Say = Callable[[str], None]


def random_network(name: str) -> VideoNetwork:
    """A network of `tubelet.export.papers.FULL_SIZE`; the same numbers each time, of the usual size."""
    torch.manual_seed(0)
    network = FULL_SIZE[name]().eval()
    with torch.no_grad():
        for parameter_name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.02)
            else:
                torch.nn.init.constant_(parameter, 0.0 if parameter_name.endswith("bias") else 1.0)
    return network


def gflop(name: str, *, num_frames: int | None) -> float:
    """Of one view, both stages; a multiply-add is two."""
    return 2e-9 * count_macs(on_meta(FULL_SIZE[name]), num_frames=num_frames).total


def full_size_bundle(name: str, *, say: Say) -> Path:
    """The bundle's folder, with the graphs of fp32 and int8."""
    bundle = FOLDER / "bundles" / name
    stamp = bundle.with_name(f"{name}.made_from")
    if stamp.exists() and stamp.read_text() == _made_from(name) and _is_current(name, bundle):
        return bundle
    stamp.unlink(missing_ok=True)
    shutil.rmtree(bundle, ignore_errors=True)  # it may be of a format that nobody reads any more
    _export(name, bundle, say)
    _quantise(bundle, say)
    stamp.write_text(_made_from(name))
    return bundle


def _export(name: str, bundle: Path, say: Say) -> None:
    say(f"{name}: random weights, exporting")
    plan = Recipe.load(RECIPES / f"{name}.toml")
    network, labels = random_network(name), read_labels(plan, RECIPES)
    contract = contract_of(plan, network, labels)
    with staging(bundle) as folder:
        for head in contract.heads:
            text = "".join(f"{label}\n" for label in labels[head.name])
            (folder / label_file(contract, head)).write_text(text, encoding="utf-8")
        for graph in export_graphs(network, contract, out=folder):
            say(f"{name}: {graph}")
        build = _build(plan, network)
        Manifest(contract=contract, contract_digest=contract.digest, build=build).save(folder)


def _build(plan: Recipe, network: VideoNetwork) -> Build:
    return Build(
        checkpoint=Checkpoint(format="tubelet", file="none", sha256="none", source="random numbers", licence="none"),
        largest_batch=plan.largest_batch,
        num_parameters=count_parameters(network),
        opset=OPSET,
        tools={"tubelet": __version__, "torch": version("torch")},
        int8=None,
        verified=(),
    )


def _quantise(bundle: Path, say: Say) -> None:
    """By the command that users have; a process of its own gives its memory back."""
    say(f"{bundle.name}: calibrating int8")
    clips = FOLDER / "calibration"
    if not clips.exists():
        write_clips(clips, split="evaluation", seed=4, count=CALIBRATION_CLIPS, workers=1)
    subprocess.run([TUBELET, "quantise", bundle, "--videos", clips], check=True, stdout=sys.stderr)


def _is_current(name: str, bundle: Path) -> bool:
    """Whether the manifest can be read, and promises what the recipe says today."""
    plan = Recipe.load(RECIPES / f"{name}.toml")
    try:
        found = Manifest.load(bundle).contract
    except TubeletError:
        return False
    return found == contract_of(plan, on_meta(FULL_SIZE[name]), read_labels(plan, RECIPES))


@cache
def _sources() -> str:
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for file in sorted(PACKAGE.glob(pattern)):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _made_from(name: str) -> str:
    return f"{name} {_sources()} torch {version('torch')}\n"
