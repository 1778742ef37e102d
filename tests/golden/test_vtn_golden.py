"""VTN against the outputs of bomri/SlowFast, for checkpoints in its own files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tubelet.checkpoints.slowfast import load as load_vtn
from tubelet.models.vtn import Vtn
from tubelet.preprocess.normalise import normalise
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.network import VtnNetwork
from tubelet.spec.pipeline import Normalisation

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="'shared/golden' does not lie beside the repository")

INDEX: dict[str, Any] = json.loads((GOLDEN / "index.json").read_text()) if GOLDEN.is_dir() else {}
CASES = [case for case, entry in INDEX.items() if entry.get("family") == "vtn"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load(case: str) -> Vtn:
    config = json.loads((GOLDEN / case / "config.json").read_text())
    network = VtnNetwork(
        family="vtn",
        variant="vit",
        backbone_heads=config["BACKBONE"]["num_heads"],
        temporal_heads=config["VTN"]["NUM_ATTENTION_HEADS"],
        attention_window=tuple(config["VTN"]["ATTENTION_WINDOW"]),
        positions="learned",
        max_positions=None,
    )
    num_frames, crop_px = config["DATA"]["NUM_FRAMES"], config["DATA"]["TEST_CROP_SIZE"]
    return load_vtn(GOLDEN / case / "checkpoint.pyth", network, num_frames=num_frames, crop_px=crop_px).eval()


def inputs_of(case: str) -> tuple[Tensor, Tensor]:
    """Clips float32 `[B, T, S, S, 3]`, indices of their frames int64 `[B, T]`."""
    arrays = np.load(GOLDEN / case / "input.npz")
    return torch.from_numpy(arrays["inputs"]).permute(0, 2, 3, 4, 1), torch.from_numpy(arrays["frame_indices"])


def test_logits_are_those_of_slowfast(case: str) -> None:
    expected = np.load(GOLDEN / case / "expected.npz")
    with torch.inference_mode():
        logits = load(case)(*inputs_of(case)).numpy()
    budget = BUDGETS["torch-fp32/golden"]
    assert budget.max_abs_logit is not None
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=budget.max_abs_logit)
    assert (logits.argmax(axis=1) == expected["logits"].argmax(axis=1)).all()


def test_float64_logits_are_those_of_slowfast(case: str) -> None:
    expected = np.load(GOLDEN / case / "expected.npz")
    clips, positions = inputs_of(case)
    with torch.inference_mode():
        logits = load(case).double()(clips.double(), positions).numpy()
    np.testing.assert_allclose(logits, expected["logits_float64"], rtol=0, atol=1e-9)


def test_every_stage_is_that_of_slowfast(case: str) -> None:
    expected = np.load(GOLDEN / case / "expected.npz")
    found = stages(load(case), *inputs_of(case))
    tolerances = INDEX[case]["expected"]
    assert found.keys() == tolerances.keys() - {"logits", "logits_float64"}
    for name, array in found.items():
        wanted = expected[name]
        if name.startswith(("temporal_", "cls_attention")):  # the reference pads its tokens, at the end
            tokens = slice(0, inputs_of(case)[0].shape[1] + 1)
            wanted = wanted[..., tokens] if name == "cls_attention" else wanted[:, tokens]
        atol = tolerances[name]["atol_float32"]
        np.testing.assert_allclose(array, wanted, rtol=0, atol=atol, err_msg=name)


def stages(model: Vtn, clips: Tensor, positions: Tensor) -> dict[str, NDArray[np.float32]]:
    with torch.inference_mode():
        features = model.encode(clips.flatten(0, 1)[:, None]).view(*clips.shape[:2], -1)
        states = model.states(features, positions)
    found = {
        "backbone_features": features,
        "temporal_embeddings": states.embedding,
        "cls_attention": states.class_attention,
        "cls_feature": states.hidden[:, -1, 0],
    }
    found |= {f"temporal_layer_{i}": layer for i, layer in enumerate(states.hidden.unbind(dim=1))}
    return {name: tensor.numpy() for name, tensor in found.items()}


def test_attention_over_frames_is_that_of_slowfast(case: str) -> None:
    wanted = np.load(GOLDEN / case / "expected.npz")["cls_attention"][:, -1].mean(axis=1)
    clips, positions = inputs_of(case)
    model = load(case)
    with torch.inference_mode():
        features = model.encode(clips.flatten(0, 1)[:, None]).view(*clips.shape[:2], -1)
        _, attention = model.attend(features, positions)
    np.testing.assert_allclose(attention, wanted[:, 1 : 1 + clips.shape[1]], rtol=0, atol=1e-5)


def test_bytes_are_normalised_as_slowfast_does(case: str) -> None:
    data = json.loads((GOLDEN / case / "config.json").read_text())["DATA"]
    arrays = np.load(GOLDEN / case / "input.npz")
    as_trained = Normalisation(scale=1 / 255, mean=tuple(data["MEAN"]), std=tuple(data["STD"]))
    wanted = arrays["inputs"].transpose(0, 2, 3, 4, 1)
    np.testing.assert_allclose(normalise(as_trained, arrays["frames"]), wanted, rtol=0, atol=5e-7)
