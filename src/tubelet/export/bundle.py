"""Recipe and checkpoint to a bundle: a folder that is either complete and verified, or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from tubelet import __version__
from tubelet.checkpoints.load import load_model, sha256_file
from tubelet.export.onnx import OPSET, export_graphs
from tubelet.export.verify import BUDGET, measure
from tubelet.models.vivit import FactorisedEncoder, FactorisedEncoderSizes
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.errors import InvalidRequestError, RecipeError
from tubelet.spec.manifest import (
    MANIFEST_FILE,
    Build,
    Checkpoint,
    Contract,
    Geometry,
    Head,
    Manifest,
)
from tubelet.spec.recipe import HeadRecipe, Recipe

__all__ = ["contract_of", "export_bundle", "label_file", "read_labels"]

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


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
    progress(f"reading {weights.name}")
    sha256 = sha256_file(weights)
    model = load_model(weights, format=plan.checkpoint.format, family=plan.family, variant=plan.variant)
    labels = read_labels(plan, recipe.parent)
    contract = contract_of(plan, model.sizes, labels)
    build = _build(
        model,
        Checkpoint(
            format=plan.checkpoint.format,
            file=weights.name,
            sha256=sha256,
            source=plan.checkpoint.source,
            licence=plan.checkpoint.licence,
        ),
    )
    with _staging(out) as folder:
        for head in contract.heads:
            text = _label_text(labels[head.name])
            (folder / label_file(contract, head)).write_text(text, encoding="utf-8")
        for graph in export_graphs(model, contract, out=folder):
            progress(f"exported {graph}")
        progress("verifying")
        measured = measure(folder, contract, model=model, videos=None, progress=progress)
        manifest = Manifest(contract=contract, contract_digest=contract.digest, build=replace(build, measured=measured))
        manifest.save(folder)
    progress(f"wrote {out}")
    return manifest


def label_file(contract: Contract, head: Head) -> str:
    """Name of a head's label file in a bundle: ``labels.txt`` where there is one head."""
    return "labels.txt" if len(contract.heads) == 1 else f"labels.{head.name}.txt"


def contract_of(plan: Recipe, sizes: FactorisedEncoderSizes, labels: dict[str, tuple[str, ...]]) -> Contract:
    """What a recipe and a network promise together.

    Args:
        plan: the recipe.
        sizes: of the network, as its checkpoint has them.
        labels: of each head, by its name, in the order of its logits.

    Raises:
        RecipeError: ``bad_recipe``: they contradict each other.
    """
    names = [head.name for head in plan.heads]
    if len(set(names)) != len(names):
        raise RecipeError("bad_recipe", f"recipe.heads must have different names, got {', '.join(names)}")
    _agree("sampler.num_frames", plan.sampler.num_frames, sizes.num_frames)
    _agree("crop.size_px", plan.crop.size_px, sizes.crop_px)
    _agree("the number of labels", sum(map(len, labels.values())), sizes.num_classes)
    try:
        return Contract(
            schema_version=1,
            name=plan.name,
            family=plan.family,
            variant=plan.variant,
            geometry=_geometry(sizes),
            sampler=plan.sampler,
            resize=plan.resize,
            crop=plan.crop,
            normalisation=plan.normalisation,
            protocols=plan.protocols,
            default_protocol=plan.default_protocol,
            aggregation=plan.aggregation,
            heads=tuple(_head(head, labels[head.name]) for head in plan.heads),
        )
    except ValueError as exc:
        raise RecipeError("bad_recipe", f"recipe: {exc}") from exc


def _agree(name: str, stated: int, found: int) -> None:
    if stated != found:
        raise RecipeError("bad_recipe", f"{name} is {stated} in the recipe, and {found} in the checkpoint's tensors")


def _geometry(sizes: FactorisedEncoderSizes) -> Geometry:
    return Geometry(
        unit_frames=sizes.tubelet_frames,
        patch_px=sizes.patch_px,
        feature_dim=sizes.width,
        encoder_layers=sizes.spatial_layers,
        encoder_heads=sizes.spatial_heads,
        temporal_layers=sizes.temporal_layers,
        temporal_heads=sizes.temporal_heads,
    )


def _head(head: HeadRecipe, labels: tuple[str, ...]) -> Head:
    digest = hashlib.sha256(_label_text(labels).encode()).hexdigest()
    return Head(name=head.name, num_classes=len(labels), activation=head.activation, labels_sha256=digest)


def _build(model: FactorisedEncoder, checkpoint: Checkpoint) -> Build:
    return Build(
        checkpoint=checkpoint,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        opset=OPSET,
        precision="fp32",
        tools={"tubelet": __version__, **{name: version(name) for name in TOOLS}},
        budget=BUDGETS[BUDGET],
        measured=(),
    )


def read_labels(plan: Recipe, folder: Path) -> dict[str, tuple[str, ...]]:
    """The labels of each head of a recipe that lies in ``folder``.

    Raises:
        RecipeError: ``bad_recipe``: a file is missing, or does not hold one label per line.
    """
    return {head.name: _read_labels(folder / head.labels) for head in plan.heads}


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        raise RecipeError("bad_recipe", f"cannot read the labels {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise RecipeError("bad_recipe", f"the labels {path.name} are not UTF-8 text") from exc
    labels = tuple(line.strip() for line in lines)
    if not labels or "" in labels or len(set(labels)) != len(labels):
        raise RecipeError("bad_recipe", f"{path.name} must hold one label per line, none empty and none twice")
    return labels


def _label_text(labels: tuple[str, ...]) -> str:
    return "".join(f"{label}\n" for label in labels)


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place when the block succeeds, and is gone when it fails."""
    if out.exists() and not (out / MANIFEST_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidRequestError("bad_parameter", f"{out} is there and is no bundle; choose another folder")
    partial, old = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("partial", "old"))
    partial.mkdir(parents=True)
    try:
        yield partial
        _swap(partial, out, old)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _swap(new: Path, place: Path, old: Path) -> None:
    if not place.exists():
        new.rename(place)
        return
    place.rename(old)
    try:
        new.rename(place)
    except OSError:
        old.rename(place)
        raise
