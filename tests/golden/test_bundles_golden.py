"""From an official file through `tubelet export` to each engine: the logits of the official code come out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_recipes import golden_recipe
from numpy.typing import NDArray

from tubelet.engines.base import EngineSettings
from tubelet.engines.open import open_engine
from tubelet.export.bundle import export_bundle
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.manifest import Contract

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="'shared/golden' does not lie beside the repository")

CASES = (
    "scenic_m1_cls",
    "scenic_m1_gap_prelogits",
    "scenic_m1_uniform_sampling",
    "scenic_m2_cls",
    "scenic_m2_two_head",
    "scenic_m3_time_space",
    "scenic_m4",
    "hf_vivit_tiny",
    "vtn_tiny",
    "vidtr_split",
    "vidtr_split_t16",
    "vidtr_compact",
    "i3d_slow_r50_tiny",
)


def toml(values: dict[str, Any], prefix: str = "") -> str:
    """TOML of nested plain data."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict) and not _is_tables(value)}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in plain.items())
    for key, value in values.items():
        if isinstance(value, dict):
            text += f"\n[{prefix}{key}]\n" + toml(value, f"{prefix}{key}.")
        elif _is_tables(value):
            text += "".join(f"\n[[{prefix}{key}]]\n" + toml(item) for item in value)
    return text


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


@pytest.fixture(scope="module", params=CASES)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Contract]:
    folder = tmp_path_factory.mktemp(request.param)
    recipe, weights, heads = golden_recipe(GOLDEN / request.param)
    (folder / "recipe.toml").write_text(toml(recipe))
    for head, count in heads.items():
        (folder / f"{head}.txt").write_text("".join(f"{head} {i}\n" for i in range(count)))
    manifest = export_bundle(folder / "recipe.toml", checkpoint=weights, out=folder / "bundle")
    return request.param, folder / "bundle", manifest.contract


@pytest.fixture(params=["openvino", "onnxruntime"])
def settings(request: pytest.FixtureRequest) -> EngineSettings:
    return EngineSettings.small(request.param)


def run(bundle: Path, contract: Contract, inputs: Any, settings: EngineSettings) -> NDArray[np.float32]:
    """Logits `[B, C]` of the frames of a case, one view each."""
    frames = inputs["frames_resized_cropped"] if "frames_resized_cropped" in inputs else inputs["frames"]
    units = frames.reshape(-1, *contract.unit_shape)
    encoder = open_engine(bundle / "encoder.onnx", settings)
    encoded = np.concatenate(
        [next(iter(encoder.run({"UNITS": units[i : i + 3]}).values())) for i in range(0, len(units), 3)]
    )
    if contract.is_joint:
        return encoded
    clip_units = np.arange(len(units), dtype=np.int32).reshape(len(frames), -1)
    feeds: dict[str, NDArray[Any]] = {
        "FEATURES": encoded,
        "CLIP_UNITS": clip_units,
        "CROPS": np.zeros((1, 2), np.int32),
    }
    if contract.geometry.positions:
        feeds["CLIP_POSITIONS"] = inputs["frame_indices"].astype(np.int32)
    return open_engine(bundle / "temporal.onnx", settings).run(feeds)["VIEW_LOGITS"]


def test_graphs_give_the_official_logits(bundle: tuple[str, Path, Contract], settings: EngineSettings) -> None:
    case, folder, contract = bundle
    inputs, expected = np.load(GOLDEN / case / "input.npz"), np.load(GOLDEN / case / "expected.npz")
    logits = run(folder, contract, inputs, settings)
    budget = BUDGETS["torch-fp32/golden"]
    assert budget.max_abs_logit is not None
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=budget.max_abs_logit)
    assert (logits.argmax(axis=1) == expected["logits"].argmax(axis=1)).all()


def test_the_product_of_two_heads_is_the_official_one(
    bundle: tuple[str, Path, Contract], settings: EngineSettings
) -> None:
    case, folder, contract = bundle
    if contract.product is None:
        pytest.skip("one head")
    expected = np.load(GOLDEN / case / "expected.npz")
    average = open_engine(folder / "average.onnx", settings)
    found = [average.run({"VIEW_LOGITS": logits[None]})["PRODUCT"] for logits in expected["logits"]]
    np.testing.assert_allclose(np.stack(found), expected["joint_probs"], rtol=0, atol=1e-6)
