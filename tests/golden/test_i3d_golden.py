"""I3D against the outputs of GluonCV's own code: narrow in GluonCV's own file, and real with weights by formula."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tubelet.checkpoints import gluoncv
from tubelet.models.i3d import SlowResnet
from tubelet.preprocess.normalise import normalise
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.network import I3dNetwork
from tubelet.spec.pipeline import Normalisation

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="'shared/golden' does not lie beside the repository")

TINY, RECIPE = "i3d_slow_r50_tiny", "i3d_slow_r50_recipe"


@pytest.fixture(scope="module", params=[TINY, RECIPE])
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(case: str, tmp_path_factory: pytest.TempPathFactory) -> SlowResnet:
    path = GOLDEN / case / "checkpoint.pth"
    if case == RECIPE:
        path = tmp_path_factory.mktemp("i3d") / "checkpoint.pth"
        torch.save(weights_by_formula(config(case)["WEIGHTS"]), path)
    _, frames, height, _, _ = clips(case).shape
    network = I3dNetwork(family="i3d", variant="slow_resnet")
    return gluoncv.load(path, network, num_frames=frames, crop_px=height).eval()


def config(case: str) -> dict[str, Any]:
    return dict(json.loads((GOLDEN / case / "config.json").read_text()))


def clips(case: str) -> Tensor:
    inputs = torch.from_numpy(np.load(GOLDEN / case / "input.npz")["inputs"])  # [B, 3, T, S, S]
    return inputs.permute(0, 2, 3, 4, 1).contiguous()


def weights_by_formula(recipe: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors that ``shared/golden/README.md`` defines, held against the recipe's own checks."""
    made = {}
    for name, rule in recipe["tensors"].items():
        if rule["kind"] == "integer":
            made[name] = torch.tensor(rule["value"])
            continue
        seed = (zlib.crc32(name.encode()) + recipe["seed"]) % 2**32
        normal = np.random.RandomState(seed).standard_normal(rule["shape"])
        if rule["kind"] == "normal":
            values = rule["mean"] + rule["std"] * normal
        else:
            values = rule["scale"] * np.exp(rule["sigma"] * normal)
        made[name] = torch.from_numpy(values.astype(np.float32))
    for name, check in recipe["check"].items():
        values = made[name].double().flatten()
        np.testing.assert_allclose([values.sum(), values[0], values[-1]], list(check), rtol=1e-6, err_msg=name)
    return made


def test_logits_are_those_of_gluoncv(case: str, model: SlowResnet) -> None:
    expected = np.load(GOLDEN / case / "expected.npz")
    with torch.inference_mode():
        logits = model(clips(case)).numpy()
    budget = BUDGETS["torch-fp32/golden"]
    assert budget.max_abs_logit is not None
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=budget.max_abs_logit)
    assert (logits.argmax(axis=1) == expected["logits"].argmax(axis=1)).all()


def test_every_stage_is_that_of_gluoncv(case: str, model: SlowResnet) -> None:
    index = json.loads((GOLDEN / "index.json").read_text())[case]["expected"]
    expected = np.load(GOLDEN / case / "expected.npz")
    found = stages(model, clips(case))
    for name in index:
        if "logits" in name:
            continue
        array = found[name.removesuffix("_channel_mean")]
        array = array.mean(axis=(2, 3, 4)) if name.endswith("_channel_mean") else array
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=index[name]["atol_float32"], err_msg=name)


def stages(model: SlowResnet, batch: Tensor) -> dict[str, NDArray[np.float32]]:
    found: dict[str, NDArray[np.float32]] = {}
    watched = {"stem": model.stem_pool} | {f"layer{i + 1}": stage for i, stage in enumerate(model.stages)}
    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: found.update({name: output.numpy()}),
        )
        for name, module in watched.items()
    ]
    hooks.append(
        model.head.register_forward_hook(lambda _module, inputs, _output: found.update(features=inputs[0].numpy()))
    )
    with torch.inference_mode():
        model(batch)
    for hook in hooks:
        hook.remove()
    return found


def test_float64_logits_are_those_of_gluoncv(case: str, model: SlowResnet) -> None:
    expected = np.load(GOLDEN / case / "expected.npz")
    with torch.inference_mode():
        logits = model.double()(clips(case).double()).numpy()
    model.float()
    np.testing.assert_allclose(logits, expected["logits_float64"], rtol=0, atol=1e-9)


def test_the_real_width_has_the_published_parameters(case: str, model: SlowResnet) -> None:
    if case == RECIPE:
        assert sum(parameter.numel() for parameter in model.parameters()) == config(case)["WEIGHTS"]["parameters"]


def test_bytes_are_normalised_as_gluoncv_does(case: str) -> None:
    inputs = np.load(GOLDEN / case / "input.npz")
    imagenet = Normalisation(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    expected = inputs["inputs"].transpose(0, 2, 3, 4, 1)
    np.testing.assert_allclose(normalise(imagenet, inputs["frames"]), expected, rtol=0, atol=1e-6)
