"""Verification finds what is wrong with a bundle, and says yes to one that is right."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from tiny import CHECKPOINT

from tubelet.export.compare import compare, within
from tubelet.export.samples import generated_sample
from tubelet.export.verify import verify_bundle
from tubelet.preprocess.canary import canary_video
from tubelet.preprocess.geometry import cut_units
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.errors import ContractError, ExportMismatchError, InvalidRequestError, RecipeError
from tubelet.spec.manifest import Budget, Contract, Head, Manifest, Measurement

BUDGET = BUDGETS["engine-fp32/torch-fp32"]


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundle: Path) -> Path:
    """A bundle that a test may spoil, its checkpoint beside the manifest."""
    copy = tmp_path / "tiny"
    shutil.copytree(tiny_bundle, copy)
    shutil.copy(CHECKPOINT, copy / "checkpoint")
    (copy / "parity.json").unlink()
    return copy


@pytest.fixture(scope="module")
def contract(tiny_bundle: Path) -> Contract:
    return Manifest.load(tiny_bundle).contract


def parity(bundle: Path) -> dict[str, Any]:
    """What is noted of the engine that the tests look at."""
    report = json.loads((bundle / "parity.json").read_text())
    result: dict[str, Any] = report["results"]["openvino-fp32"]
    return result


def verify(bundle: Path, **options: Any) -> tuple[Measurement, ...]:
    """What one engine measures; most faults of a bundle show by any."""
    options = {"checkpoint": None, "videos": None, "arithmetics": [("openvino", "fp32")]} | options
    (found,) = verify_bundle(bundle, **options)
    return found.measured


def spoil(graph: Path, *, add: float, name: str | None = None) -> None:
    """Changes a graph's largest initializer, or the one that is named."""
    model = onnx.load(graph)
    sizes = {tensor.name: numpy_helper.to_array(tensor).size for tensor in model.graph.initializer}
    name = name or max(sizes, key=sizes.__getitem__)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor)
            noise = np.random.default_rng(0).standard_normal(values.shape).astype(values.dtype) * add
            tensor.CopyFrom(numpy_helper.from_array((values + noise).astype(values.dtype), name))
    onnx.save(model, graph)


def test_a_good_bundle_passes_at_every_batch_size(bundle: Path) -> None:
    measured = verify(bundle)
    views = [m for m in measured if "views" in m.stage]
    assert [m.stage.partition(": ")[2] for m in views] == [f"views, {n} units at once" for n in (1, 5, 8)]
    assert all(m.num_views >= 16 for m in measured)
    assert all(m.max_abs_logit is not None and m.max_abs_logit < 1e-5 for m in measured)
    assert [m.stage for m in measured[-2:]] == ["generated, 6 frames: logits", "generated, 6 frames: probabilities"]
    assert parity(bundle)["passed"] is True
    assert len(parity(bundle)["measured"]) == len(measured)


@pytest.mark.parametrize("step", ["encoder", "temporal"])
def test_a_spoilt_weight_is_found(bundle: Path, step: str) -> None:
    spoil(bundle / f"{step}.onnx", add=0.01)
    with pytest.raises(ExportMismatchError, match="allows") as caught:
        verify(bundle)
    assert caught.value.code == "over_budget"
    report = parity(bundle)
    assert report["passed"] is False
    assert max(m["max_abs_logit"] for m in report["measured"]) > BUDGET.max_abs_logit


def test_a_weight_that_is_no_number_is_found(bundle: Path) -> None:
    spoil(bundle / "encoder.onnx", add=math.nan)
    with pytest.raises(ExportMismatchError):
        verify(bundle)
    assert parity(bundle)["measured"][0]["max_abs_logit"] is None


def test_units_that_differ_in_one_pixel_are_found(bundle: Path) -> None:
    """The window's column offsets are a constant of the graph; one of them is moved by one."""
    graph = bundle / "units.onnx"
    model = onnx.load(graph)
    moved = 0
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.tolist() == list(range(16)):
            tensor.CopyFrom(numpy_helper.from_array(np.where(values == 7, 8, values), tensor.name))
            moved += 1
    assert moved
    onnx.save(model, graph)
    with pytest.raises(ExportMismatchError, match=r"units\.onnx must cut equal bytes"):
        verify(bundle)
    assert parity(bundle)["units_equal"] is False
    assert parity(bundle)["passed"] is False


def test_an_average_that_sums_is_found(bundle: Path) -> None:
    graph = bundle / "average.onnx"
    model = onnx.load(graph)
    (mean,) = (node for node in model.graph.node if node.op_type == "ReduceMean")
    mean.op_type = "ReduceSum"
    onnx.save(model, graph)
    with pytest.raises(ExportMismatchError, match="generated, 6 frames: logits"):
        verify(bundle)


def test_a_graph_of_another_contract_is_refused(bundle: Path) -> None:
    model = onnx.load(bundle / "temporal.onnx")
    for entry in model.metadata_props:
        if entry.key == "contract_digest":
            entry.value = "sha256:0"
    onnx.save(model, bundle / "temporal.onnx")
    with pytest.raises(ContractError, match=r"temporal\.onnx was exported for sha256:0"):
        verify(bundle)


def test_a_missing_graph_is_named(bundle: Path) -> None:
    (bundle / "average.onnx").unlink()
    with pytest.raises(ContractError, match=r"average\.onnx is not there"):
        verify(bundle)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="is no bundle"):
        verify(tmp_path)


def test_checkpoint_is_found_in_the_folder_of_the_repository(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundle.parent / "export" / "checkpoints"
    folder.mkdir(parents=True)
    (bundle / "checkpoint").rename(folder / "checkpoint")
    monkeypatch.chdir(bundle.parent)
    assert verify(bundle)


def test_a_checkpoint_that_is_nowhere_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle / "checkpoint").unlink()
    monkeypatch.chdir(bundle.parent)
    with pytest.raises(RecipeError, match=r"checkpoint is not at .* or ") as caught:
        verify(bundle)
    assert caught.value.code == "bad_checkpoint"


def test_another_checkpoint_is_refused_by_its_digest(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(CHECKPOINT.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RecipeError, match="SHA-256"):
        verify(bundle, checkpoint=other)


def test_real_videos_are_compared_too(bundle: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "canary.mp4").write_bytes(canary_video())
    (videos / "notes.txt").write_text("no video")
    lines: list[str] = []
    measured = verify(bundle, videos=videos, progress=lines.append)
    stages = [m.stage for m in measured if m.stage.startswith("canary.mp4")]
    assert len(stages) == 3
    assert {m.num_views for m in measured if m.stage in stages} == {6}  # 2x3, the recipe's default protocol
    assert any("notes.txt: left out, not_a_video" in line for line in lines)


@pytest.mark.parametrize("kind", ["missing", "empty", "no video"])
def test_a_folder_without_videos_is_refused(bundle: Path, tmp_path: Path, kind: str) -> None:
    videos = tmp_path / "videos"
    if kind != "missing":
        videos.mkdir()
    if kind == "no video":
        (videos / "notes.txt").write_text("no video")
    with pytest.raises(InvalidRequestError) as caught:
        verify(bundle, videos=videos)
    assert caught.value.code == "bad_input"


def test_generated_views_are_different_pictures(contract: Contract) -> None:
    sample = generated_sample(contract, num_frames=6, largest_batch=8, seed=1)
    assert sample.num_views == 18
    assert sample.unit_frames.shape[0] < sample.clip_units.size  # units are shared between clips
    views = cut_units(sample.frames, sample.unit_frames, sample.crops, size_px=contract.crop.size_px).astype(int)
    flat = views.reshape(len(views), -1)
    distances = np.abs(flat[:, None] - flat[None]).mean(axis=2)
    assert distances[~np.eye(len(flat), dtype=bool)].min() > 5


@pytest.mark.parametrize("largest_batch", [1, 8, 25, 60, 200, 1024])
def test_generated_units_fill_the_largest_batch(
    largest_batch: int, contract: Contract, make_vtn_contract: Callable[..., Contract]
) -> None:
    for each in (contract, make_vtn_contract()):
        sample = generated_sample(each, num_frames=each.sampler.num_frames, largest_batch=largest_batch, seed=1)
        assert len(sample.unit_frames) * len(sample.crops) >= largest_batch


def test_generated_clips_depend_on_the_seed_only(contract: Contract) -> None:
    first, second, other = (
        generated_sample(contract, num_frames=6, largest_batch=8, seed=seed).frames for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@given(
    logits=st.lists(st.lists(st.floats(-50, 50, width=32), min_size=5, max_size=5), min_size=1, max_size=6),
    shift=st.floats(0, 1, width=32),
)
def test_comparison_finds_the_largest_difference(contract: Contract, logits: list[list[float]], shift: float) -> None:
    expected = np.asarray(logits, np.float32) + np.float32(60)
    found = expected.copy()
    found[-1, 2] += np.float32(shift)
    measured = compare(found, expected, contract=contract, stage="s", num_views=len(logits))
    assert measured.max_abs_logit == float(found[-1, 2]) - float(expected[-1, 2])
    assert measured.cosine is not None
    assert measured.cosine <= 1 + 1e-12
    same = found.argmax(axis=1) == expected.argmax(axis=1)
    assert measured.top1_agreement == pytest.approx(same.mean())


def test_top1_is_counted_per_head(contract: Contract) -> None:
    heads = tuple(Head(name=n, num_classes=c, activation="softmax", labels_sha256="") for n, c in (("a", 3), ("b", 2)))
    two = dataclasses.replace(contract, heads=heads)
    expected = np.array([[3, 2, 1, 0, 1]], np.float32)
    found = np.array([[3, 2, 1, 1, 0]], np.float32)
    assert compare(found, expected, contract=two, stage="s", num_views=1).top1_agreement == 0.5
    assert compare(found, expected, contract=contract, stage="s", num_views=1).top1_agreement == 1.0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"max_abs_logit": 2.1e-4}, False),
        ({"max_abs_logit": None}, False),
        ({"cosine": 0.9999}, False),
        ({"cosine": None}, False),
        ({"top1_agreement": 0.99}, False),
    ],
)
def test_budget_is_kept_in_every_respect_or_not_at_all(change: dict[str, float | None], expected: bool) -> None:
    good = Measurement(stage="s", against="t", num_views=1, max_abs_logit=1e-5, cosine=1.0, top1_agreement=1.0)
    assert within(BUDGET, dataclasses.replace(good, **change)) is expected  # type: ignore[arg-type]
    loose = Budget(max_abs_logit=None, min_cosine=0.9, min_top1_agreement=0.9)
    assert within(loose, dataclasses.replace(good, max_abs_logit=5.0))


def test_pooled_rows_have_one_cosine(contract: Contract) -> None:
    """A small row that is far off weighs little among large ones; alone it is the smallest."""
    expected = np.array([[100, 0, 0, 0, 0], [0, 1, 0, 0, 0]], np.float32)
    found = np.array([[100, 0, 0, 0, 0], [0, 1, 0, 0, 1]], np.float32)
    alone, pooled = (
        compare(found, expected, contract=contract, stage="s", num_views=2, pooled=pooled).cosine
        for pooled in (False, True)
    )
    assert alone == pytest.approx(2**-0.5)
    assert pooled == pytest.approx(10001 / (10001 * 10002) ** 0.5)
