"""VTN's own files: sizes come from the tensors, every tensor is accounted for, whatever contradicts is named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from vtns import CROP_PX, SIZES, frames, network_of, small_vtn, tensors_of, views, write

from tubelet.checkpoints.load import load_model
from tubelet.checkpoints.slowfast import load
from tubelet.models.vtn import Vtn
from tubelet.spec.errors import RecipeError

Tensors = dict[str, Tensor]
LAYER = "temporal_encoder.encoder.layer.1"
POSITIONS = "temporal_encoder.embeddings.position_embeddings.weight"


def load_small(path: Path, kind: str, **other: Any) -> Vtn:
    network = replace(network_of(kind), **{name: other.pop(name) for name in list(other) if name != "crop_px"})
    return load(path, network, num_frames=16, crop_px=other.get("crop_px", CROP_PX))


@pytest.mark.parametrize("kind", SIZES)
def test_a_file_gives_back_the_network_that_it_was_made_of(kind: str, tmp_path: Path) -> None:
    model = small_vtn(kind)
    loaded = load_small(write(tmp_path / "vtn.pyth", tensors_of(model)), kind).eval()
    assert loaded.sizes == model.sizes
    wanted = model.state_dict()
    assert loaded.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in loaded.state_dict().items())
    features, positions = views(11, width=model.feature_dim)
    with torch.inference_mode():
        assert torch.equal(loaded.encode(frames()), model.encode(frames()))
        assert torch.equal(loaded.classify(features, positions), model.classify(features, positions))


def test_the_registry_knows_the_format(tmp_path: Path) -> None:
    path = write(tmp_path / "vtn.pyth", tensors_of(small_vtn("vit")))
    model = load_model(path, format="slowfast", network=network_of("vit"), num_frames=16, crop_px=CROP_PX)
    assert isinstance(model, Vtn)
    assert not model.training


def test_names_are_those_of_the_released_file() -> None:
    tensors = tensors_of(small_vtn("vit"))
    per_backbone_block, per_layer = 12, 22
    assert len(tensors) == 6 + 2 * per_backbone_block + 1 + 5 + 3 * per_layer + 6
    for name, shape in {
        "backbone.cls_token": (1, 1, 24),
        "backbone.pos_embed": (1, 10, 24),
        "backbone.patch_embed.proj.weight": (24, 3, 8, 8),
        "backbone.blocks.1.attn.qkv.weight": (72, 24),
        "backbone.blocks.1.mlp.fc2.weight": (24, 40),
        "backbone.norm.bias": (24,),
        "cls_token": (1, 1, 24),
        "temporal_encoder.embeddings.position_ids": (1, 30),
        POSITIONS: (30, 24),
        "temporal_encoder.embeddings.token_type_embeddings.weight": (2, 24),
        "temporal_encoder.embeddings.LayerNorm.bias": (24,),
        f"{LAYER}.attention.self.query_global.weight": (24, 24),
        f"{LAYER}.attention.output.LayerNorm.weight": (24,),
        f"{LAYER}.intermediate.dense.weight": (20, 24),
        f"{LAYER}.output.dense.weight": (24, 20),
        "mlp_head.0.weight": (24,),
        "mlp_head.1.weight": (18, 24),
        "mlp_head.4.weight": (5, 18),
    }.items():
        assert tuple(tensors[name].shape) == shape, name


def test_the_released_size_has_as_many_tensors_as_the_released_file() -> None:
    from test_vtn import VIT_B_VTN, on_meta  # its sizes are the paper's

    from tubelet.checkpoints.slowfast import rows

    leaves = [leaf for row in rows(on_meta(VIT_B_VTN)) for leaf in row.leaves]
    assert len(leaves) + len(["position_ids"]) == len(set(leaves)) + 1 == 228


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in tensors_of(small_vtn("vit")).items()
    }
    loaded = load_small(write(tmp_path / "vtn.pyth", tensors), "vit")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_what_says_nothing_may_be_absent(tmp_path: Path) -> None:
    for kind in ("vit", "resnet, no positions"):
        tensors = {
            name: tensor
            for name, tensor in tensors_of(small_vtn(kind)).items()
            if not name.endswith(("position_ids", "num_batches_tracked"))
        }
        load_small(write(tmp_path / "vtn.pyth", tensors), kind)


def without(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        del tensors[name]

    return change


def with_tensor(name: str, *shape: int) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("kind", "change", "match"),
    [
        ("vit", without("cls_token"), "lacks cls_token"),
        ("vit", without("backbone.cls_token"), r"lacks backbone\.cls_token"),
        ("vit", without("backbone.pos_embed"), r"backbone\.pos_embed"),
        ("vit", without("backbone.patch_embed.proj.weight"), r"patch_embed\.proj\.weight"),
        ("vit", without("mlp_head.4.weight"), r"mlp_head\.4\.weight"),
        ("vit", without(f"{LAYER}.attention.self.key_global.bias"), "key_global"),
        ("vit", without("backbone.blocks.1.norm1.weight"), r"blocks\.1\.norm1"),
        ("vit", with_tensor("backbone.head.weight", 5, 24), r"no backbone\.head\.weight"),
        ("vit", with_tensor("temporal_encoder.pooler.dense.weight", 24, 24), "pooler"),
        ("vit", with_tensor("temporal_encoder.embeddings.word_embeddings.weight", 1, 24), "word_embeddings"),
        ("vit", with_tensor("backbone.num_batches_tracked"), "num_batches_tracked"),
        ("vit", with_tensor("mlp_head.1.bias", 17), r"mlp_head\.1\.bias must have shape \(18,\)"),
        ("vit", with_tensor("backbone.blocks.5.norm1.weight", 24), r"lacks backbone\.blocks\.2"),
        ("vit", with_tensor(POSITIONS, 2, 24), "must have rows for"),
        ("vit", with_tensor("backbone.patch_embed.proj.weight", 24, 3, 8, 4), "8x4 px"),
        ("vit", with_tensor("backbone.patch_embed.proj.weight", 24, 3, 0, 0), "none of them empty"),
        ("vit", with_tensor(f"{LAYER[:-1]}0.attention.self.query.weight", 12, 12), "width 24"),
        ("vit", lambda tensors: tensors.update({"cls_token": torch.full((1, 1, 24), torch.nan)}), "not finite"),
        ("vit", lambda tensors: tensors.update({"cls_token": torch.ones(1, 1, 24).int()}), "another kind"),
        ("vit, one layer", with_tensor(f"{LAYER}.output.dense.bias", 24), "2 temporal layers"),
        ("resnet, no positions", without("backbone.layer2.0.downsample.0.weight"), "downsample"),
        ("resnet, no positions", without("backbone.layer1.0.bn2.running_var"), "running_var"),
        ("resnet, no positions", without("backbone.layer1.0.conv3.weight"), "bottleneck"),
        ("resnet, no positions", without("backbone.bn1.bias"), r"lacks backbone\.bn1\.bias"),
        ("resnet, no positions", with_tensor("backbone.fc.weight", 5, 24), r"no backbone\.fc\.weight"),
    ],
)
def test_whatever_does_not_fit_is_named(
    kind: str, change: Callable[[Tensors], None], match: str, tmp_path: Path
) -> None:
    tensors = tensors_of(small_vtn(kind))
    change(tensors)
    with pytest.raises(RecipeError, match=match):
        load_small(write(tmp_path / "vtn.pyth", tensors), kind)


@pytest.mark.parametrize(
    ("kind", "other", "code", "match"),
    [
        ("vit", {"variant": "vit_distilled"}, "bad_checkpoint", "looks like vit "),
        ("vit_distilled, sinusoidal", {"variant": "vit"}, "bad_checkpoint", "looks like vit_distilled"),
        ("vit", {"variant": "resnet", "backbone_heads": None}, "bad_checkpoint", "looks like vit "),
        ("resnet, no positions", {"variant": "vit", "backbone_heads": 3}, "bad_checkpoint", "looks like resnet"),
        ("vit", {"backbone_heads": 5}, "bad_recipe", "backbone_heads must divide .* 24, got 5"),
        ("vit", {"temporal_heads": 7}, "bad_recipe", "temporal_heads must divide .* 24, got 7"),
        ("vit", {"attention_window": (4, 10)}, "bad_recipe", r"3 temporal layers, got \[4, 10\]"),
        ("vit", {"positions": "none"}, "bad_checkpoint", "say learned"),
        ("vit", {"positions": "sinusoidal", "max_positions": 30}, "bad_checkpoint", "say learned"),
        ("resnet, no positions", {"positions": "learned"}, "bad_checkpoint", "position_embeddings"),
        ("vit_distilled, sinusoidal", {"max_positions": 2**40}, "bad_recipe", "more than"),
        ("vit", {"crop_px": 32}, "bad_checkpoint", "9 patches of 8x8 px .* 32 px .* have 16"),
    ],
)
def test_a_recipe_that_contradicts_the_file_is_refused(
    kind: str, other: dict[str, Any], code: str, match: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "vtn.pyth", tensors_of(small_vtn(kind)))
    with pytest.raises(RecipeError, match=match) as caught:
        load_small(path, kind, **other)
    assert caught.value.code == code


def test_a_resnet_takes_frames_of_any_size(tmp_path: Path) -> None:
    path = write(tmp_path / "vtn.pyth", tensors_of(small_vtn("resnet, no positions")))
    assert load_small(path, "resnet, no positions", crop_px=40).encode(torch.zeros(1, 1, 40, 40, 3)).shape == (1, 24)


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(40)])
def test_files_that_are_no_checkpoint_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vtn.pyth"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_small(path, "vit")
    assert caught.value.code == "bad_checkpoint"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "vtn.pyth", tensors_of(small_vtn("vit")))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(RecipeError) as caught:
        load_small(path, "vit")
    assert caught.value.code == "bad_checkpoint"


@pytest.mark.parametrize("kind", SIZES)
def test_no_single_tensor_may_be_missing_or_of_another_shape(kind: str, tmp_path: Path) -> None:
    whole = tensors_of(small_vtn(kind))
    needed = [name for name in whole if not name.endswith(("position_ids", "num_batches_tracked"))]
    for i, name in enumerate(needed):
        changed = dict(whole)
        if i % 2:
            del changed[name]
        else:
            changed[name] = whole[name].repeat(*[1] * (whole[name].dim() - 1), 2)
        with pytest.raises(RecipeError):
            load_small(write(tmp_path / "vtn.pyth", changed), kind)


def test_a_patch_that_is_larger_than_the_frame_is_refused(tmp_path: Path) -> None:
    tensors = tensors_of(small_vtn("vit")) | {"backbone.pos_embed": torch.zeros(1, 1, 24)}
    with pytest.raises(RecipeError, match="0 patches of 8x8 px"):
        load_small(write(tmp_path / "vtn.pyth", tensors), "vit", crop_px=7)
