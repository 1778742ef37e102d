"""ViViT's networks: sizes of the paper, what each model looks at, their stages and their modes."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CHECKPOINT, MAKER, NETWORK, TINY
from torch import Tensor, nn
from torch.nn import functional
from vivits import MODEL_1, MODEL_2, MODEL_3, MODEL_4, VIVITS, small_clips, small_vivit

from tubelet.checkpoints import scenic
from tubelet.models.layers import Encoder, SelfAttention
from tubelet.models.network import TwoStageVideoNetwork
from tubelet.models.vivit import (
    FactorisedDotProduct,
    FactorisedEncoder,
    FactorisedSelfAttention,
    JointVivit,
    SpatioTemporal,
    build,
)
from tubelet.models.vivit_attention import FactorisedDotProductAttention, FactorisedSelfAttentionBlock
from tubelet.models.vivit_sizes import (
    EncoderSizes,
    FactorisedDotProductSizes,
    FactorisedEncoderSizes,
    FactorisedSelfAttentionSizes,
    JointSizes,
    TubeletSizes,
    uniform_frames,
)
from tubelet.spec.strict import decode, encode

SIZES = {
    "B": (768, EncoderSizes(num_layers=12, num_heads=12, mlp_width=3072), 16),
    "L": (1024, EncoderSizes(num_layers=24, num_heads=16, mlp_width=4096), 16),
    "H": (1280, EncoderSizes(num_layers=32, num_heads=16, mlp_width=5120), 14),
}


def joint(
    size: str, kind: type[JointSizes] = JointSizes, *, crop_px: int = 224, classifier: Any = "token", **other: Any
) -> JointSizes:
    width, encoder, patch_px = SIZES[size]
    return kind(
        num_frames=32,
        crop_px=crop_px,
        embedding=TubeletSizes(kind="tubelet", frames=2, patch_px=patch_px),
        width=width,
        encoder=encoder,
        classifier=classifier,
        representation_width=None,
        num_classes=400,
        **other,
    )


def factorised(
    size: str, temporal_layers: int | None, *, num_classes: int = 400, crop_px: int = 224
) -> FactorisedEncoderSizes:
    width, encoder, patch_px = SIZES[size]
    return FactorisedEncoderSizes(
        num_frames=32,
        tubelet_frames=2,
        crop_px=crop_px,
        patch_px=patch_px,
        width=width,
        spatial=encoder,
        temporal=None if temporal_layers is None else replace(encoder, num_layers=temporal_layers),
        classifier="token",
        representation_width=None,
        num_classes=num_classes,
    )


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        pytest.param(joint("B"), 88_954_000, id="B Model 1"),
        pytest.param(factorised("B", 4), 115_062_928, id="B FE L_t=4"),
        pytest.param(factorised("B", 12), 171_765_904, id="B FE as released"),
        pytest.param(
            joint("B", FactorisedSelfAttentionSizes, classifier="gap", attention_order="time_space"),
            117_319_312,
            id="B Model 3",
        ),
        pytest.param(joint("B", FactorisedDotProductSizes, classifier="gap"), 88_952_464, id="B Model 4"),
        pytest.param(factorised("B", None), 86_696_080, id="B average pool"),
        pytest.param(joint("L"), 307_508_624, id="L Model 1, 224 px"),
        pytest.param(joint("L", crop_px=288), 309_605_776, id="L Model 1, 288 px"),
        pytest.param(joint("L", crop_px=320), 310_850_960, id="L Model 1, 320 px"),
        pytest.param(factorised("L", 4), 354_903_440, id="L FE K400 L_t=4"),
        pytest.param(factorised("L", 24), 606_827_920, id="L FE K400 L_t=24"),
        pytest.param(factorised("L", 24, num_classes=600), 607_032_920, id="L FE K600"),
        pytest.param(factorised("L", 4, num_classes=397), 354_900_365, id="L FE Epic-Kitchens L_t=4"),
        pytest.param(factorised("L", 24, num_classes=397), 606_824_845, id="L FE Epic-Kitchens L_t=24"),
        pytest.param(factorised("L", 4, num_classes=174, crop_px=256), 354_733_230, id="L FE SSv2"),
        pytest.param(joint("H"), 636_945_040, id="H Model 1"),
        pytest.param(factorised("H", 4), 710_765_200, id="H FE L_t=4"),
    ],
)
def test_has_the_parameters_of_the_published_sizes(sizes: JointSizes | FactorisedEncoderSizes, expected: int) -> None:
    with torch.device("meta"):
        model = build(sizes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert not list(model.buffers())


@pytest.mark.parametrize("kind", VIVITS)
def test_sizes_survive_a_file_and_name_their_network(kind: str) -> None:
    sizes = VIVITS[kind][1]
    assert decode(type(sizes), encode(sizes), where="sizes") == sizes
    networks = {
        JointSizes: SpatioTemporal,
        FactorisedSelfAttentionSizes: FactorisedSelfAttention,
        FactorisedDotProductSizes: FactorisedDotProduct,
        FactorisedEncoderSizes: FactorisedEncoder,
    }
    model = build(sizes)
    assert type(model) is networks[type(sizes)]
    assert model.sizes == sizes
    assert (model.num_frames, model.crop_px, model.num_classes) == (6, 24, 5)
    assert model.unit_frames == (2 if isinstance(model, TwoStageVideoNetwork) else 6)


def load_tiny() -> FactorisedEncoder:
    model = scenic.load(CHECKPOINT, NETWORK, num_frames=6, crop_px=16).eval()
    assert isinstance(model, FactorisedEncoder)
    return model


def tiny_clips() -> Tensor:
    return torch.from_numpy(np.load(TINY / "clips.npy")).float() * (2 / 255) - 1


def test_stored_numbers_of_the_tiny_model_hold() -> None:
    with torch.inference_mode():
        logits = load_tiny()(tiny_clips()).numpy()
    np.testing.assert_allclose(logits, np.load(TINY / "logits.npy"), rtol=0, atol=1e-5)


def test_the_tiny_model_can_be_made_again(tmp_path: Path) -> None:
    runpy.run_path(str(MAKER))["make"](tmp_path)
    assert (tmp_path / "checkpoint").read_bytes() == CHECKPOINT.read_bytes()
    np.testing.assert_array_equal(np.load(tmp_path / "clips.npy"), np.load(TINY / "clips.npy"))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), np.load(TINY / "logits.npy"), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", VIVITS)
def test_float32_and_float64_agree(kind: str) -> None:
    with torch.inference_mode():
        single, double = small_vivit(kind)(small_clips()), small_vivit(kind).double()(small_clips().double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", VIVITS)
def test_clips_of_a_batch_know_nothing_of_each_other(kind: str) -> None:
    model, clips = small_vivit(kind), small_clips(3)
    with torch.inference_mode():
        alone = torch.cat([model(clip[None]) for clip in clips])
        torch.testing.assert_close(model(clips), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["model 2", "model 2, gmp, representation", "average pool", "average pool, gap"])
def test_two_stages_over_shared_units_give_what_whole_clips_give(kind: str) -> None:
    model, clips = small_vivit(kind), small_clips(3)
    assert isinstance(model, FactorisedEncoder)
    units = clips.reshape(-1, 2, *clips.shape[2:])  # all clips as one long video
    windows = torch.arange(len(units) - 2)[:, None] + torch.arange(3)
    with torch.inference_mode():
        shared = model.classify(model.encode(units)[windows])
        whole = model(units[windows].flatten(1, 2))
        one_by_one = torch.cat([model.encode(unit[None]) for unit in units])
        torch.testing.assert_close(model.encode(units), one_by_one, rtol=0, atol=1e-5)
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", VIVITS)
def test_order_of_tubelets_matters_to_all_but_the_average_pool(kind: str) -> None:
    clips = small_clips()
    swapped = clips[:, [4, 5, 2, 3, 0, 1]] if "uniform" not in kind else clips.flip(1)
    with torch.inference_mode():
        difference = (small_vivit(kind)(clips) - small_vivit(kind)(swapped)).abs().max()
    if kind.startswith("average pool"):
        assert difference < 1e-5
    else:
        assert difference > 1e-2


def masked(attention: SelfAttention, tokens: Tensor, allowed: Tensor) -> Tensor:
    """Attention over all tokens, with a mask `[H, N, N]` or `[N, N]` that hides what is not allowed."""
    query, key, value = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in attention.qkv(tokens).chunk(3, dim=-1)
    )
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
    return attention.out(mixed.transpose(1, 2).flatten(2))


def same_time_and_same_place() -> tuple[Tensor, Tensor]:
    """Who may see whom among 3 times of 4 places, `[12, 12]` each."""
    time, place = torch.arange(12) // 4, torch.arange(12) % 4
    return time[:, None] == time, place[:, None] == place


@pytest.mark.parametrize("order", ["time_space", "space_time"])
def test_model_3_attends_within_a_place_and_within_a_time(order: Any) -> None:
    torch.manual_seed(0)
    block = FactorisedSelfAttentionBlock(num_times=3, width=8, num_heads=2, mlp_width=9, attention_order=order).eval()
    runpy.run_path(str(MAKER))["randomise"](block, np.random.RandomState(0))
    tokens = torch.randn(2, 12, 8)
    same_time, same_place = same_time_and_same_place()
    steps: dict[str, Callable[[Tensor], Tensor]] = {
        "time": lambda x: x + masked(block.time_attention, block.time_attention_norm(x), same_place),
        "space": lambda x: x + masked(block.space_attention, block.space_attention_norm(x), same_time),
    }
    with torch.inference_mode():
        wanted = tokens
        for axis in order.split("_"):
            wanted = steps[axis](wanted)
        wanted = wanted + block.mlp(block.mlp_norm(wanted))
        torch.testing.assert_close(block(tokens), wanted, rtol=0, atol=1e-5)


def test_the_orders_of_model_3_differ() -> None:
    model = small_vivit("model 3, time first")
    other = build(replace(MODEL_3, attention_order="space_time")).eval()
    other.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert (model(small_clips()) - other(small_clips())).abs().max() > 1e-3


def test_model_4_looks_at_time_with_the_first_half_of_its_heads() -> None:
    torch.manual_seed(0)
    attention = FactorisedDotProductAttention(8, 4, num_times=3).eval()
    tokens = torch.randn(2, 12, 8)
    same_time, same_place = same_time_and_same_place()
    allowed = torch.stack([same_place, same_place, same_time, same_time])
    with torch.inference_mode():
        torch.testing.assert_close(attention(tokens), masked(attention, tokens, allowed), rtol=0, atol=1e-6)


def test_models_3_and_4_need_their_pooling_and_model_4_an_even_number_of_heads() -> None:
    for sizes in (MODEL_3, MODEL_4):
        with pytest.raises(ValueError, match="gap, gmp or gsp"):
            build(replace(sizes, classifier="token"))
    with pytest.raises(ValueError, match="3 heads"):
        build(replace(MODEL_4, encoder=EncoderSizes(num_layers=1, num_heads=3, mlp_width=4)))


@pytest.mark.parametrize(
    ("pooling", "reduce"),
    [
        ("token", lambda rows: rows[:, 0]),
        ("gap", lambda rows: rows.mean(axis=1)),
        ("gmp", lambda rows: rows.max(axis=1)),
        ("gsp", lambda rows: rows.sum(axis=1)),
    ],
)
def test_an_encoder_gives_its_class_token_or_pools_its_tokens(
    pooling: Any, reduce: Callable[[np.ndarray], np.ndarray]
) -> None:
    encoder = Encoder([nn.Identity()], width=4, num_tokens=3, pooling=pooling)
    runpy.run_path(str(MAKER))["randomise"](encoder, np.random.RandomState(0))
    tokens = torch.randn(2, 3, 4)
    with torch.inference_mode():
        rows = tokens
        if encoder.class_token is not None:
            rows = torch.cat([encoder.class_token.expand(2, 1, 4), tokens], dim=1)
        wanted = reduce(encoder.norm(rows + encoder.positions).numpy())
        np.testing.assert_allclose(encoder(tokens).numpy(), wanted, rtol=0, atol=1e-6)
    assert encoder.positions.shape == (1, 4 if pooling == "token" else 3, 4)


def test_the_representation_is_bounded_by_tanh() -> None:
    model = small_vivit("model 1, gsp, representation")
    assert isinstance(model, JointVivit)
    with torch.inference_mode():
        pooled = model.encoder(model.embedding(small_clips()).flatten(1, 2))
        layer = model.get_submodule("representation").state_dict()
        wanted = np.tanh(pooled.numpy() @ layer["weight"].numpy().T + layer["bias"].numpy())
        np.testing.assert_allclose(model.representation(pooled).numpy(), wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(model(small_clips()), model.head(torch.from_numpy(wanted)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("num_frames", "count", "expected"),
    [
        (32, 16, (2, 4, 6, 8, 9, 11, 13, 15, 17, 19, 21, 23, 24, 26, 28, 30)),
        (8, 4, (2, 3, 5, 6)),
        (10, 3, (2, 5, 8)),  # 2.5 is rounded down, 7.5 up: half to even
        (7, 1, (4,)),
        (5, 5, (0, 1, 2, 3, 4)),
        (3, 9, (0, 1, 2)),
        (4, 2, (1, 3, 3)),  # (4 - 4/3) / (4/3) comes out above 2: one frame more than asked for
        (16, 5, (3, 5, 8, 11, 13, 15)),
    ],
)
def test_uniform_frames_are_those_of_scenic(num_frames: int, count: int, expected: tuple[int, ...]) -> None:
    assert uniform_frames(num_frames, count) == expected


def test_frames_that_are_not_chosen_are_not_looked_at() -> None:
    model, clips = small_vivit("model 1, uniform frames"), small_clips()
    chosen = list(uniform_frames(6, 2))
    others = [frame for frame in range(6) if frame not in chosen]
    with torch.inference_mode():
        logits = model(clips)
        clips[:, others] = 0
        assert torch.equal(model(clips), logits)
        clips[:, chosen[-1]] = 0
        assert not torch.equal(model(clips), logits)


def test_pixels_beyond_the_last_whole_tubelet_are_not_looked_at() -> None:
    model = build(replace(MODEL_1, num_frames=7, crop_px=28)).eval()
    clips = torch.randn(1, 7, 28, 28, 3)
    with torch.inference_mode():
        logits = model(clips)
        clips[:, 6:] = clips[:, :, 24:] = clips[:, :, :, 24:] = 0
        torch.testing.assert_close(model(clips), logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sizes", [MODEL_1, MODEL_2, MODEL_3, MODEL_4], ids=["1", "2", "3", "4"])
def test_dropout_is_silent_in_eval_mode_and_only_there(sizes: Any) -> None:
    torch.manual_seed(0)
    kind: Any = type(build(sizes))
    model, clips = kind(sizes, dropout=0.5), small_clips()
    with torch.no_grad():
        first, second = model.eval()(clips), model(clips)
        assert torch.equal(first, second)
        model.train()
        assert not torch.equal(model(clips), model(clips))
        assert torch.equal(model.eval()(clips), first)


@pytest.mark.parametrize("kind", VIVITS)
def test_a_fresh_model_has_no_uninitialised_numbers(kind: str) -> None:
    for name, parameter in build(VIVITS[kind][1]).named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.abs().max() <= 2, name


@pytest.mark.parametrize(("kind", "blocks"), [("model 2", 3), ("model 3, time first", 2), ("model 4", 2)])
def test_activation_is_the_tanh_form_of_gelu(kind: str, blocks: int) -> None:
    gelus = [module for module in small_vivit(kind).modules() if isinstance(module, nn.GELU)]
    assert [gelu.approximate for gelu in gelus] == ["tanh"] * blocks


def test_width_must_be_a_multiple_of_the_heads() -> None:
    with pytest.raises(ValueError, match="multiple"):
        SelfAttention(width=10, num_heads=4)
