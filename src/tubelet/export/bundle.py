"""Recipe and checkpoint to a bundle: a folder that is either complete and verified, or not there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from tubelet import __version__
from tubelet.checkpoints.load import load_model, sha256_file
from tubelet.export.onnx import OPSET, export_graphs
from tubelet.export.staging import staging
from tubelet.export.verify import check_passed, measure, write_parity
from tubelet.models.network import TwoStageVideoNetwork, VideoNetwork
from tubelet.spec.engine import PLAIN
from tubelet.spec.errors import RecipeError
from tubelet.spec.manifest import (
    Build,
    Checkpoint,
    Contract,
    Geometry,
    Head,
    Manifest,
)
from tubelet.spec.recipe import HeadRecipe, Recipe

__all__ = ["contract_of", "export_bundle", "label_file", "load_plan", "read_labels"]

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy")


def export_bundle(
    recipe: Path,
    *,
    checkpoint: Path | None,
    out: Path,
    progress: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Builds and verifies a bundle; a failure leaves neither a bundle nor a part of one.

    Args:
        recipe: the recipe file; its paths are relative to its folder.
        checkpoint: the weights; None: the file that the recipe names.
        out: the bundle's folder; a bundle that is there is replaced.
        progress: told what is being done, line by line.

    Returns:
        The manifest, with what the verification measured.

    Raises:
        RecipeError: the recipe, its labels or the checkpoint are unfit, or contradict each other.
        ExportMismatchError: ``over_budget``: the graphs do not compute what the checkpoint computes.
        InvalidRequestError: ``bad_parameter``: ``out`` is there and is no bundle.
    """
    plan = Recipe.load(recipe)
    weights = checkpoint if checkpoint is not None else recipe.parent / plan.checkpoint.file
    labels = read_labels(plan, recipe.parent)
    progress(f"reading {weights.name}")
    checkpoint_read = _identify(plan, weights)
    model = load_plan(plan, weights)
    contract = contract_of(plan, model, labels)
    build = _build(plan, model, checkpoint_read)
    manifest = Manifest(contract=contract, contract_digest=contract.digest, build=build)
    with staging(out) as folder:
        for head in contract.heads:
            text = _label_text(labels[head.name])
            (folder / label_file(contract, head)).write_text(text, encoding="utf-8")
        for graph in export_graphs(model, contract, out=folder):
            progress(f"exported {graph}")
        progress("verifying")
        found = measure(folder, manifest, model=model, videos=None, arithmetics=PLAIN, progress=progress)
        check_passed(found)
        manifest = replace(manifest, build=build.with_verified(found))
        write_parity(folder, manifest)
        manifest.save(folder)
    progress(f"wrote {out}")
    return manifest


def label_file(contract: Contract, head: Head) -> str:
    """Name of a head's label file in a bundle: ``labels.txt`` where there is one head."""
    return "labels.txt" if len(contract.heads) == 1 else f"labels.{head.name}.txt"


def load_plan(plan: Recipe, weights: Path) -> VideoNetwork:
    """The network that a recipe describes, with the weights of a file; see `tubelet.checkpoints.load.load_model`."""
    return load_model(
        weights,
        format=plan.checkpoint.format,
        network=plan.network,
        num_frames=plan.sampler.num_frames,
        crop_px=plan.crop.size_px,
    )


def contract_of(plan: Recipe, model: VideoNetwork, labels: dict[str, tuple[str, ...]]) -> Contract:
    """What a recipe and a network promise together.

    Args:
        plan: the recipe.
        model: the network, as its checkpoint has it.
        labels: of each head, by its name, in the order of its logits.

    Raises:
        RecipeError: ``bad_recipe``: they contradict each other.
    """
    names = [head.name for head in plan.heads]
    if len(set(names)) != len(names):
        raise RecipeError("bad_recipe", f"recipe.heads must have different names, got {', '.join(names)}")
    _agree("sampler.num_frames", plan.sampler.num_frames, model.num_frames)
    _agree("crop.size_px", plan.crop.size_px, model.crop_px)
    _agree("the number of labels", sum(map(len, labels.values())), model.num_classes)
    try:
        return Contract(
            schema_version=1,
            name=plan.name,
            network=plan.network,
            geometry=_geometry(model),
            sampler=plan.sampler,
            full_video=plan.full_video,
            resize=plan.resize,
            crop=plan.crop,
            normalisation=plan.normalisation,
            protocols=plan.protocols,
            default_protocol=plan.default_protocol,
            aggregation=plan.aggregation,
            heads=tuple(_head(head, labels[head.name]) for head in plan.heads),
            product=plan.product,
        )
    except ValueError as exc:
        raise RecipeError("bad_recipe", f"recipe: {exc}") from exc


def _agree(name: str, stated: int, found: int) -> None:
    if stated != found:
        raise RecipeError("bad_recipe", f"{name} is {stated} in the recipe, and {found} in the checkpoint's tensors")


def _geometry(model: VideoNetwork) -> Geometry:
    if not isinstance(model, TwoStageVideoNetwork):
        return Geometry(
            unit_frames=model.unit_frames, feature_dim=None, positions=False, attention=False, any_length=False
        )
    return Geometry(
        unit_frames=model.unit_frames,
        feature_dim=model.feature_dim,
        positions=model.takes_positions,
        attention=model.gives_attention,
        any_length=model.takes_any_length,
    )


def _identify(plan: Recipe, weights: Path) -> Checkpoint:
    """Who the file is; where the recipe knows its SHA-256, no other file passes for it."""
    source, sha256 = plan.checkpoint, sha256_file(weights)
    if source.sha256 not in (None, sha256):
        raise RecipeError(
            "bad_checkpoint",
            f"{weights.name} is not the released file: SHA-256 {source.sha256} is expected, got {sha256}; "
            'for weights of your own set checkpoint.sha256 = "none" in a copy of the recipe',
        )
    return Checkpoint(
        format=source.format, file=weights.name, sha256=sha256, source=source.source, licence=source.licence
    )


def _head(head: HeadRecipe, labels: tuple[str, ...]) -> Head:
    digest = hashlib.sha256(_label_text(labels).encode()).hexdigest()
    return Head(name=head.name, num_classes=len(labels), activation=head.activation, labels_sha256=digest)


def _build(plan: Recipe, model: VideoNetwork, checkpoint: Checkpoint) -> Build:
    return Build(
        checkpoint=checkpoint,
        largest_batch=plan.largest_batch,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        opset=OPSET,
        tools={"tubelet": __version__, **{name: version(name) for name in TOOLS}},
        int8=None,
        verified=(),
    )


def read_labels(plan: Recipe, folder: Path) -> dict[str, tuple[str, ...]]:
    """The labels of each head of a recipe that lies in ``folder``.

    Raises:
        RecipeError: ``bad_recipe``: a file is missing, or does not hold one label per line.
    """
    return {head.name: _read_labels(folder / head.labels) for head in plan.heads}


def _read_labels(path: Path) -> tuple[str, ...]:
    if path.exists() and not path.is_file():  # a pipe or a device could keep us reading for ever
        raise RecipeError("bad_recipe", f"the labels {path} must be a file, not a folder, a pipe or a device")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        raise RecipeError(
            "bad_recipe",
            f"cannot read the labels {path}: {exc.strerror}; one label per line, in the order of the logits, is "
            "expected there (export/labels/README.md says where published lists come from)",
        ) from exc
    except ValueError as exc:
        raise RecipeError("bad_recipe", f"the labels {path.name} are not UTF-8 text") from exc
    labels = tuple(line.strip() for line in lines)
    if not labels or "" in labels or len(set(labels)) != len(labels):
        raise RecipeError("bad_recipe", f"{path.name} must hold one label per line, none empty and none twice")
    return labels


def _label_text(labels: tuple[str, ...]) -> str:
    return "".join(f"{label}\n" for label in labels)
