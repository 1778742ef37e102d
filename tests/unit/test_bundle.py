"""A bundle is complete and verified, or it is not there."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CHECKPOINT, LABELS, RECIPE, write_recipe

from tubelet.checkpoints.load import sha256_file
from tubelet.checkpoints.scenic import write_checkpoint
from tubelet.engines.base import EngineSettings
from tubelet.engines.open import open_engine
from tubelet.export.bundle import export_bundle, load_plan
from tubelet.models.vivit import FactorisedEncoder
from tubelet.spec.errors import ExportMismatchError, InvalidRequestError, RecipeError
from tubelet.spec.manifest import Geometry, Manifest
from tubelet.spec.recipe import Recipe

SMALL = EngineSettings.small("openvino")
TWO_HEADS = RECIPE.replace('name = "direction"', 'name = "vertical"').replace("labels.txt", "vertical.txt") + (
    '[[heads]]\nname = "other"\nactivation = "sigmoid"\nlabels = "other.txt"\n'
)


def test_bundle_holds_what_the_design_says(tiny_bundle: Path) -> None:
    assert {path.name for path in tiny_bundle.iterdir()} == {
        "manifest.json",
        "labels.txt",
        "units.onnx",
        "encoder.onnx",
        "temporal.onnx",
        "average.onnx",
        "parity.json",
    }
    assert (tiny_bundle / "labels.txt").read_text(encoding="utf-8").splitlines() == list(LABELS)


def test_manifest_says_what_was_built(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(tiny_bundle)
    contract, build = manifest.contract, manifest.build
    assert contract.name == "tiny"
    assert contract.geometry == Geometry(
        unit_frames=2, feature_dim=16, positions=False, attention=False, any_length=False
    )
    assert contract.sampler.target_fps is None
    assert build.checkpoint.file == "checkpoint"
    assert build.checkpoint.sha256 == sha256_file(CHECKPOINT)
    model = load_plan(Recipe.load(write_recipe(tmp_path)), CHECKPOINT)
    assert build.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert build.tools.keys() == {"tubelet", "torch", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy"}
    (head,) = contract.heads
    assert head.num_classes == len(LABELS)
    assert head.labels_sha256 == hashlib.sha256((tiny_bundle / "labels.txt").read_bytes()).hexdigest()


def test_manifest_and_parity_tell_the_same_measurements(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    parity = json.loads((tiny_bundle / "parity.json").read_text())
    assert parity["contract_digest"] == manifest["contract_digest"]
    assert list(parity["results"]) == ["onnxruntime-fp32", "openvino-fp32"]
    assert list(parity["results"].values()) == manifest["build"]["verified"]
    for result in parity["results"].values():
        assert result["passed"] is True
        assert result["units_equal"] is True
        assert all(measured["num_views"] >= 16 for measured in result["measured"])


def test_several_heads_have_labels_and_probabilities_of_their_own(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, TWO_HEADS)
    (tmp_path / "vertical.txt").write_text("up\ndown\nstill\n")
    (tmp_path / "other.txt").write_text("bright\nstraße\n", encoding="utf-8")
    lines: list[str] = []
    manifest = export_bundle(recipe, checkpoint=None, out=tmp_path / "bundle", progress=lines.append)
    names = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert {"labels.vertical.txt", "labels.other.txt"} < names
    assert "labels.txt" not in names
    assert manifest.contract.num_classes == 5
    view_logits = np.zeros((2, 5), np.float32)
    found = open_engine(tmp_path / "bundle" / "average.onnx", SMALL).run({"VIEW_LOGITS": view_logits})
    np.testing.assert_allclose(found["PROBABILITIES"], [1 / 3] * 3 + [0.5] * 2, rtol=0, atol=1e-6)
    assert [line for line in lines if line.startswith("exported")] == [
        f"exported {step}.onnx" for step in ("units", "encoder", "temporal", "average")
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_frames = 6", "num_frames = 8", "clips of 8 frames \\(sampler.num_frames\\) of 16 px"),
        ("size_px = 16", "size_px = 8", "of 8 px \\(crop.size_px\\) have 1 patches"),
        ("short_side_px = 20", "short_side_px = 15", "crop.size_px exceeds"),
        ('name = "tiny"', 'name = "not a name"', "a model's name"),
        ('default_protocol = "2x3"', 'default_protocol = "4x3"', "default_protocol '4x3' is not among"),
        ('"2x3", "tsn"', '"2x3", "full"', "full_video is given when"),
        ('"labels.txt"', '"nothing.txt"', "cannot read the labels"),
        ('"checkpoint"', '"nothing"', "cannot read"),
        ("stride = 2", "", "recipe.sampler lacks stride"),
    ],
)
def test_contradictions_are_named_and_leave_nothing(tmp_path: Path, old: str, new: str, message: str) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace(old, new))
    before = set(tmp_path.iterdir())
    with pytest.raises(RecipeError, match=message):
        export_bundle(recipe, checkpoint=None, out=tmp_path / "bundle")
    assert set(tmp_path.iterdir()) == before


def test_heads_of_the_same_name_are_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, TWO_HEADS.replace('"other"', '"vertical"'))
    (tmp_path / "vertical.txt").write_text("up\ndown\nstill\n")
    (tmp_path / "other.txt").write_text("bright\ndark\n")
    with pytest.raises(RecipeError, match="different names"):
        export_bundle(recipe, checkpoint=None, out=tmp_path / "bundle")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"up\ndown\nleft\nright\n", "the number of labels is 4 in the recipe, and 5"),
        (b"up\ndown\n\nright\nstill\n", "none empty"),
        (b"up\ndown\nup\nright\nstill\n", "none twice"),
        (b"", "one label per line"),
        (b"\xff\xfe\n", "not UTF-8"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "labels.txt").write_bytes(data)
    with pytest.raises(RecipeError, match=message) as caught:
        export_bundle(recipe, checkpoint=None, out=tmp_path / "bundle")
    assert caught.value.code == "bad_recipe"


@pytest.mark.parametrize("labels", ["/dev/zero", "/dev"])
def test_labels_are_read_from_files_only(tmp_path: Path, labels: str) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("labels.txt", labels))
    with pytest.raises(RecipeError, match="must be a file, not a folder, a pipe or a device"):
        export_bundle(recipe, checkpoint=None, out=tmp_path / "bundle")


@pytest.mark.parametrize("name", ["../../up", "a/b", ".hidden", "", "a\\nb", "x" * 65])
def test_a_heads_name_stays_in_the_bundle(tmp_path: Path, name: str) -> None:
    recipe = write_recipe(tmp_path, TWO_HEADS.replace('name = "vertical"', f'name = "{name}"'))
    (tmp_path / "vertical.txt").write_text("up\ndown\nstill\n")
    (tmp_path / "other.txt").write_text("bright\ndark\n")
    before = set(tmp_path.iterdir())
    with pytest.raises(RecipeError, match="a head's name is letters"):
        export_bundle(recipe, checkpoint=None, out=tmp_path / "bundle")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("there_is_one", [False, True], ids=["nothing there", "a bundle there"])
def test_over_budget_leaves_no_bundle_and_keeps_the_old_one(
    tmp_path: Path, tiny_bundle: Path, there_is_one: bool
) -> None:
    """Logits of size 1e6 cannot be equal to 2e-4 in float32: the export itself is right, the budget is not kept."""
    model = load_plan(Recipe.load(write_recipe(tmp_path)), CHECKPOINT)
    assert isinstance(model, FactorisedEncoder)
    with torch.no_grad():
        model.head.weight *= 1e6
    write_checkpoint(tmp_path / "loud", model)
    recipe, out = write_recipe(tmp_path), tmp_path / "bundle"
    if there_is_one:
        shutil.copytree(tiny_bundle, out)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ExportMismatchError, match=r"allows 0\.0002") as caught:
        export_bundle(recipe, checkpoint=tmp_path / "loud", out=out)
    assert caught.value.code == "over_budget"
    assert set(tmp_path.rglob("*")) == before
    if there_is_one:
        assert Manifest.load(out) == Manifest.load(tiny_bundle)


def test_a_bundle_is_replaced_as_a_whole(tmp_path: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "bundles" / "tiny"
    shutil.copytree(tiny_bundle, out)
    (out / "left-over").touch()
    export_bundle(write_recipe(tmp_path), checkpoint=CHECKPOINT, out=out)
    assert not (out / "left-over").exists()
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]


def test_an_empty_folder_may_be_taken(tmp_path: Path, tiny_bundle: Path) -> None:
    out = tmp_path / "new" / "bundle"
    out.mkdir(parents=True)
    manifest = export_bundle(write_recipe(tmp_path), checkpoint=None, out=out)
    assert Manifest.load(out) == manifest
    assert manifest.contract_digest == Manifest.load(tiny_bundle).contract_digest


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_bundle_is_not_replaced(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "precious"
    (out / "thesis.txt" if kind == "folder" else out).parent.mkdir(exist_ok=True)
    (out / "thesis.txt" if kind == "folder" else out).write_text("mine")
    with pytest.raises(InvalidRequestError, match="is no bundle"):
        export_bundle(write_recipe(tmp_path), checkpoint=None, out=out)
    assert (out / "thesis.txt" if kind == "folder" else out).read_text() == "mine"


def test_a_broken_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "checkpoint").write_bytes(CHECKPOINT.read_bytes()[:1000])
    before = set(tmp_path.iterdir())
    with pytest.raises(RecipeError) as caught:
        export_bundle(recipe, checkpoint=None, out=tmp_path / "bundle")
    assert caught.value.code == "bad_checkpoint"
    assert set(tmp_path.iterdir()) == before
