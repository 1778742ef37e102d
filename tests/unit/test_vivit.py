"""The factorised encoder as a network: sizes of the paper, its two stages, its modes."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CHECKPOINT, MAKER, TINY
from torch import nn

from tubelet.checkpoints.load import load_model
from tubelet.models.layers import SelfAttention
from tubelet.models.vivit import FactorisedEncoder, FactorisedEncoderSizes

BASE = {"width": 768, "mlp_width": 3072, "spatial_layers": 12, "spatial_heads": 12, "temporal_heads": 12}
LARGE = {"width": 1024, "mlp_width": 4096, "spatial_layers": 24, "spatial_heads": 16, "temporal_heads": 16}
VIDEO = {"num_frames": 32, "tubelet_frames": 2, "patch_px": 16, "crop_px": 224}


@pytest.fixture(scope="module")
def model() -> FactorisedEncoder:
    return load_model(CHECKPOINT, format="scenic", family="vivit", variant="factorised_encoder")


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.from_numpy(np.load(TINY / "clips.npy")).float() * (2 / 255) - 1


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (BASE | VIDEO | {"temporal_layers": 4, "num_classes": 400}, 115_062_928),
        (BASE | VIDEO | {"temporal_layers": 12, "num_classes": 400}, 171_765_904),
        (LARGE | VIDEO | {"temporal_layers": 24, "num_classes": 400}, 606_827_920),
        (LARGE | VIDEO | {"temporal_layers": 4, "num_classes": 397}, 354_900_365),
        (LARGE | VIDEO | {"temporal_layers": 4, "num_classes": 174, "crop_px": 256}, 354_733_230),
    ],
    ids=["B K400 L_t=4", "B K400 as released", "L K400", "L Epic-Kitchens", "L SSv2"],
)
def test_has_the_parameters_of_the_published_sizes(sizes: dict[str, int], expected: int) -> None:
    with torch.device("meta"):
        model = FactorisedEncoder(FactorisedEncoderSizes(**sizes))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_stored_numbers_of_the_tiny_model_hold(model: FactorisedEncoder, clips: torch.Tensor) -> None:
    with torch.inference_mode():
        logits = model(clips).numpy()
    np.testing.assert_allclose(logits, np.load(TINY / "logits.npy"), rtol=0, atol=1e-5)


def test_the_tiny_model_can_be_made_again(tmp_path: Path) -> None:
    runpy.run_path(str(MAKER))["make"](tmp_path)
    assert (tmp_path / "checkpoint").read_bytes() == CHECKPOINT.read_bytes()
    np.testing.assert_array_equal(np.load(tmp_path / "clips.npy"), np.load(TINY / "clips.npy"))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), np.load(TINY / "logits.npy"), rtol=0, atol=1e-9)


def test_two_stages_over_shared_units_give_what_whole_clips_give(model: FactorisedEncoder, clips: torch.Tensor) -> None:
    sizes = model.sizes
    video = clips.reshape(-1, *clips.shape[2:])  # all clips as one long video
    units = video.reshape(-1, sizes.tubelet_frames, *video.shape[1:])
    windows = torch.arange(len(units) - sizes.num_tubelets + 1)[:, None] + torch.arange(sizes.num_tubelets)
    with torch.inference_mode():
        shared = model.classify(model.encode(units)[windows])
        whole = model(units[windows].flatten(1, 2))
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-6)


def test_a_unit_knows_nothing_of_its_neighbours(model: FactorisedEncoder, clips: torch.Tensor) -> None:
    units = clips[:, : model.sizes.tubelet_frames]
    with torch.inference_mode():
        together = model.encode(units)
        alone = torch.cat([model.encode(unit[None]) for unit in units])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_order_of_time_matters(model: FactorisedEncoder, clips: torch.Tensor) -> None:
    with torch.inference_mode():
        assert (model(clips) - model(clips.flip(1))).abs().max() > 0.01


def test_dropout_is_silent_in_eval_mode_and_only_there(clips: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = FactorisedEncoder(
        load_model(CHECKPOINT, format="scenic", family="vivit", variant="factorised_encoder").sizes, dropout=0.5
    )
    with torch.no_grad():
        model.eval()
        first, second = model(clips), model(clips)
        assert torch.equal(first, second)
        model.train()
        assert not torch.equal(model(clips), model(clips))
        model.eval()
        assert torch.equal(model(clips), first)


def test_a_fresh_model_has_no_uninitialised_numbers() -> None:
    sizes = load_model(CHECKPOINT, format="scenic", family="vivit", variant="factorised_encoder").sizes
    for name, parameter in FactorisedEncoder(sizes).named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.abs().max() <= 2, name


def test_activation_is_the_tanh_form_of_gelu(model: FactorisedEncoder) -> None:
    gelus = [module for module in model.modules() if isinstance(module, nn.GELU)]
    assert {gelu.approximate for gelu in gelus} == {"tanh"}
    assert len(gelus) == model.sizes.spatial_layers + model.sizes.temporal_layers


def test_width_must_be_a_multiple_of_the_heads() -> None:
    with pytest.raises(ValueError, match="multiple"):
        SelfAttention(width=10, num_heads=4)
