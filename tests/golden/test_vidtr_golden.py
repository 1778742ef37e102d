"""VidTr and C-VidTr against the outputs of gluonmm's own code, for checkpoints in gluonmm's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tubelet.checkpoints import gluonmm
from tubelet.models.vidtr import CompactVidtr, JointVidtr, SeparableVidtr
from tubelet.models.vidtr_attention import PoolingAttention
from tubelet.preprocess.normalise import normalise
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.network import VidtrNetwork
from tubelet.spec.pipeline import Normalisation

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="'shared/golden' does not lie beside the repository")

Found = dict[str, NDArray[Any]]


@pytest.fixture(params=["vidtr_split", "vidtr_split_t16", "vidtr_compact"])
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load(case: str) -> SeparableVidtr | JointVidtr | CompactVidtr:
    config = json.loads((GOLDEN / case / "config.json").read_text())
    model, data = config["CONFIG"]["MODEL"], config["CONFIG"]["DATA"]
    network = VidtrNetwork(
        family="vidtr",
        variant="compact" if config["CLASS"] == "CompactVidTr" else "separable",
        num_heads=model["NHEAD"],
        activation="relu",
        pool_layers=tuple(model.get("LAYER_POOL", ())),
        dropped_frames=tuple(model.get("NUMBER_OF_KEYS", ())),
    )
    path = GOLDEN / case / "checkpoint.pth"
    return gluonmm.load(path, network, num_frames=data["CLIP_LEN"], crop_px=data["IMG_SIZE"]).eval()


def clips(case: str) -> Tensor:
    inputs = torch.from_numpy(np.load(GOLDEN / case / "input.npz")["inputs"])  # [B, 3, T, S, S]
    return inputs.permute(0, 2, 3, 4, 1).contiguous()


def test_logits_are_those_of_gluonmm(case: str) -> None:
    expected = np.load(GOLDEN / case / "expected.npz")
    with torch.inference_mode():
        logits = load(case)(clips(case)).numpy()
    budget = BUDGETS["torch-fp32/golden"]
    assert budget.max_abs_logit is not None
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=budget.max_abs_logit)
    assert (logits.argmax(axis=1) == expected["logits"].argmax(axis=1)).all()


def test_float64_logits_are_those_of_gluonmm(case: str) -> None:
    expected = np.load(GOLDEN / case / "expected.npz")
    with torch.inference_mode():
        logits = load(case).double()(clips(case).double()).numpy()
    np.testing.assert_allclose(logits, expected["logits_float64"], rtol=0, atol=1e-9)


def test_every_stage_is_that_of_gluonmm(case: str) -> None:
    index = json.loads((GOLDEN / "index.json").read_text())[case]["expected"]
    expected = np.load(GOLDEN / case / "expected.npz")
    found = stages(load(case), clips(case))
    assert found.keys() == {name for name in index if "logits" not in name and not name.endswith("_min_gap")}
    for name, array in found.items():
        reference = expected[name]
        np.testing.assert_allclose(
            array.reshape(reference.shape), reference, rtol=0, atol=index[name]["atol_float32"], err_msg=name
        )


def stages(model: SeparableVidtr | JointVidtr | CompactVidtr, batch: Tensor) -> Found:
    found: Found = {}

    def keep(name: str, value: Tensor) -> None:
        found[name] = value.numpy()

    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda _module, _inputs, output, i=i: keep(f"layer_{i}", output))
        if isinstance(block.attention, PoolingAttention):
            watch_pooling(block.attention, i, found)
    with torch.inference_mode():
        keep("embeddings", model.tokens(batch))
        model(batch)
        keep("encoder_norm", model.norm(torch.from_numpy(found[f"layer_{len(model.blocks) - 1}"])))
    return found


def watch_pooling(attention: PoolingAttention, layer: int, found: Found) -> None:
    pool, deviation = attention.pool, attention.deviation

    def watched_pool(tokens: Tensor) -> tuple[Tensor, Tensor]:
        attended, kept = pool(tokens)
        found[f"pool_{layer}_kept"] = kept.numpy()
        return attended, kept

    def watched_deviation(rows: Tensor) -> Tensor:
        found[f"pool_{layer}_std"] = deviation(rows).numpy()
        return deviation(rows)

    attention.pool, attention.deviation = watched_pool, watched_deviation  # type: ignore[method-assign]


def test_bytes_are_normalised_as_gluonmm_does(case: str) -> None:
    inputs = np.load(GOLDEN / case / "input.npz")
    imagenet = Normalisation(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    expected = inputs["inputs"].transpose(0, 2, 3, 4, 1)
    np.testing.assert_allclose(normalise(imagenet, inputs["frames"]), expected, rtol=0, atol=1e-6)
