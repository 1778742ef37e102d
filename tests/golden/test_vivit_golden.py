"""The factorised encoder against the outputs of scenic's own code, for checkpoints in scenic's own files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tubelet.checkpoints.load import load_model
from tubelet.models.vivit import FactorisedEncoder
from tubelet.preprocess.normalise import normalise
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.errors import RecipeError
from tubelet.spec.manifest import Normalisation

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="'shared/golden' does not lie beside the repository")

FACTORISED = ("scenic_m2_cls", "scenic_m2_two_head")
OTHERS = ("scenic_m1_cls", "scenic_m1_gap_prelogits", "scenic_m1_uniform_sampling", "scenic_m3_time_space", "scenic_m4")


def load(case: str) -> FactorisedEncoder:
    return load_model(GOLDEN / case / "checkpoint", format="scenic", family="vivit", variant="factorised_encoder")


@pytest.fixture(params=FACTORISED)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_logits_are_those_of_scenic(case: str) -> None:
    inputs, expected = np.load(GOLDEN / case / "input.npz"), np.load(GOLDEN / case / "expected.npz")
    with torch.inference_mode():
        logits = load(case)(torch.from_numpy(inputs["inputs"])).numpy()
    budget = BUDGETS["torch-fp32/golden"]
    assert budget.max_abs_logit is not None
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=budget.max_abs_logit)
    assert (logits.argmax(axis=1) == expected["logits"].argmax(axis=1)).all()


def test_float64_logits_are_those_of_scenic(case: str) -> None:
    inputs, expected = np.load(GOLDEN / case / "input.npz"), np.load(GOLDEN / case / "expected.npz")
    with torch.inference_mode():
        logits = load(case).double()(torch.from_numpy(inputs["inputs"]).double()).numpy()
    np.testing.assert_allclose(logits, expected["logits_float64"], rtol=0, atol=1e-9)


def test_every_stage_is_that_of_scenic(case: str) -> None:
    tolerance = {
        name: array.get("atol_float32")
        for name, array in json.loads((GOLDEN / "index.json").read_text())[case]["expected"].items()
    }
    expected = np.load(GOLDEN / case / "expected.npz")
    for name, found in stages(load(case), np.load(GOLDEN / case / "input.npz")["inputs"]).items():
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=tolerance[name], err_msg=name)


def stages(model: FactorisedEncoder, clips: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    sizes, found = model.sizes, {}

    def keep_block(number: int) -> Callable[[torch.nn.Module, object, torch.Tensor], None]:
        def keep(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
            found[f"TemporalTransformer.encoderblock_{number}"] = output

        return keep

    for i, block in enumerate(model.temporal.blocks):
        block.register_forward_hook(keep_block(i))
    with torch.inference_mode():
        units = torch.from_numpy(clips).reshape(-1, sizes.tubelet_frames, *clips.shape[2:])
        side, batch = sizes.crop_px // sizes.patch_px, (len(clips), sizes.num_tubelets)
        embedding = model.embedding(units.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        found["embedding"] = embedding.reshape(*batch, side, side, -1)
        found["spatial_features"] = model.encode(units).reshape(*batch, -1)
        model.classify(found["spatial_features"])
        last = found[f"TemporalTransformer.encoderblock_{sizes.temporal_layers - 1}"]
        found["TemporalTransformer.encoder_norm"] = model.temporal.norm(last)
    return {name: tensor.numpy() for name, tensor in found.items()}


def test_bytes_are_normalised_as_scenic_does(case: str) -> None:
    inputs = np.load(GOLDEN / case / "input.npz")
    zero_centred = Normalisation(scale=2 / 255, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0))
    np.testing.assert_allclose(normalise(zero_centred, inputs["frames"]), inputs["inputs"], rtol=0, atol=1.2e-7)


@pytest.mark.parametrize("case", OTHERS)
def test_other_variants_are_refused_not_loaded_in_part(case: str) -> None:
    with pytest.raises(RecipeError, match=r"factorised encoder|must have 5 axes") as caught:
        load(case)
    assert caught.value.code == "bad_checkpoint"
