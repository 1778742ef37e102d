"""Hugging Face's files of ViViT: both containers, both generations of names, and whatever does not fit."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor
from vivits import network_of, small_clips, small_vivit

from tubelet.checkpoints import huggingface
from tubelet.models.vivit import SpatioTemporal
from tubelet.spec.errors import RecipeError

NETWORK = replace(network_of("model 1"), num_heads=2)
CONFIG = {
    "model_type": "vivit",
    "hidden_act": "gelu_fast",
    "image_size": 24,
    "num_frames": 6,
    "tubelet_size": [2, 8, 8],
    "num_attention_heads": 2,
    "layer_norm_eps": 1e-06,
    "id2label": {"0": "LABEL_0"},
}
NEW_NAMES = {
    "vivit.encoder.layer.": "vivit.layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def old_tensors() -> dict[str, Tensor]:
    """The tensors of the small Model 1 by the names of transformers 4.x, written out by hand."""
    state = small_vivit("model 1").state_dict()
    found = {
        "vivit.embeddings.cls_token": state["encoder.class_token"],
        "vivit.embeddings.position_embeddings": state["encoder.positions"],
    }
    for kind in ("weight", "bias"):
        found[f"vivit.embeddings.patch_embeddings.projection.{kind}"] = state[f"embedding.{kind}"]
        found[f"vivit.layernorm.{kind}"] = state[f"encoder.norm.{kind}"]
        found[f"classifier.{kind}"] = state[f"head.{kind}"]
        for i in range(2):
            ours, theirs = f"encoder.blocks.{i}", f"vivit.encoder.layer.{i}"
            query, key, value = state[f"{ours}.attention.qkv.{kind}"].split(12)
            found[f"{theirs}.attention.attention.query.{kind}"] = query.clone()
            found[f"{theirs}.attention.attention.key.{kind}"] = key.clone()
            found[f"{theirs}.attention.attention.value.{kind}"] = value.clone()
            found[f"{theirs}.attention.output.dense.{kind}"] = state[f"{ours}.attention.out.{kind}"]
            found[f"{theirs}.layernorm_before.{kind}"] = state[f"{ours}.attention_norm.{kind}"]
            found[f"{theirs}.layernorm_after.{kind}"] = state[f"{ours}.mlp_norm.{kind}"]
            found[f"{theirs}.intermediate.dense.{kind}"] = state[f"{ours}.mlp.0.{kind}"]
            found[f"{theirs}.output.dense.{kind}"] = state[f"{ours}.mlp.2.{kind}"]
    return found


def new_tensors() -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in old_tensors().items():
        for old, new in NEW_NAMES.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def load(path: Path, **other: Any) -> SpatioTemporal:
    wanted: dict[str, Any] = {"network": NETWORK, "num_frames": 6, "crop_px": 24} | other
    return huggingface.load(path, **wanted)


def write(folder: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("names", ["4.x", "5.x"])
@pytest.mark.parametrize("container", ["safetensors", "pickle", "old pickle"])
def test_both_containers_and_both_generations_of_names_are_read(tmp_path: Path, names: str, container: str) -> None:
    tensors = old_tensors() if names == "4.x" else new_tensors()
    assert len(tensors) == 16 * 2 + 8
    if container == "safetensors":
        path = write(tmp_path, tensors)
    else:
        path = tmp_path / "pytorch_model.bin"
        torch.save(tensors, path, _use_new_zipfile_serialization=container == "pickle")
    model, wanted = load(path).eval(), small_vivit("model 1")
    assert model.sizes == wanted.sizes
    with torch.inference_mode():
        assert torch.equal(model(small_clips()), wanted(small_clips()))


def test_numbers_of_half_width_become_float32(tmp_path: Path) -> None:
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in old_tensors().items()}
    model = load(write(tmp_path, tensors))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.head.weight, tensors["classifier.weight"].float())


def without(word: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if word not in name}


def changed(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: tensors | {name: tensor}


PROJECTION = "vivit.embeddings.patch_embeddings.projection.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("classifier"), "no classifier.weight: it is a ViViT without a classifier"),
        (without("classifier.bias"), "lacks classifier.bias"),
        (without("key.bias"), "lacks vivit.encoder.layer.0.attention.attention.key.bias"),
        (without("layer.0."), "lacks vivit.encoder.layer.0|has vivit.encoder.layer.0"),
        (without("encoder"), "has vivit.layers.0"),
        (without("position"), "has vivit.embeddings.position_embeddings"),
        (changed("vivit.pooler.dense.weight", torch.zeros(12, 12)), "has no vivit.pooler.dense.weight"),
        (changed("classifier.bias", torch.zeros(6)), r"classifier.bias must have shape \(5,\), got \(6,\)"),
        (changed("classifier.bias", torch.full((5,), torch.nan)), "classifier.bias holds numbers that are not finite"),
        (
            changed("classifier.bias", torch.zeros(5, dtype=torch.int64)),
            "classifier.bias holds numbers of another kind",
        ),
        (changed(PROJECTION, torch.zeros(12, 3, 2, 8, 4)), "tubelets of 2x8x4"),
        (changed(PROJECTION, torch.zeros(12, 3, 8, 8)), "must have 5 axes"),
        (changed("vivit.embeddings.position_embeddings", torch.zeros(1, 20, 12)), "positions for 19 tokens"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load(write(tmp_path, change(old_tensors())))
    assert caught.value.code == "bad_checkpoint"


def test_names_of_both_generations_in_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has no vivit.layers.0"):
        load(write(tmp_path, new_tensors() | old_tensors()))


@pytest.mark.parametrize(
    ("num_frames", "crop_px", "message"),
    [
        (8, 24, "27 tokens; clips of 8 frames .* of 24 px .* have 4 x 9 tubelets of 2x8x8"),
        (6, 32, "27 tokens; clips of 6 frames .* of 32 px .* have 3 x 16 tubelets of 2x8x8"),
    ],
)
def test_clips_of_another_size_are_refused(tmp_path: Path, num_frames: int, crop_px: int, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load(write(tmp_path, old_tensors()), num_frames=num_frames, crop_px=crop_px)
    assert caught.value.code == "bad_checkpoint"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (replace(NETWORK, num_heads=None), "network.num_heads must be a number"),
        (replace(NETWORK, classifier="gap"), "network.classifier token, got spatio_temporal and gap"),
        (network_of("model 2"), "network.variant must be spatio_temporal"),
        (replace(NETWORK, sampled_frames=2), "network.sampled_frames must be none, got 2"),
    ],
)
def test_networks_that_transformers_does_not_have_are_refused(tmp_path: Path, network: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load(write(tmp_path, old_tensors()), network=network)
    assert caught.value.code == "bad_recipe"


def test_heads_must_divide_the_width(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"multiple of network\.num_heads, got 5") as caught:
        load(write(tmp_path, old_tensors()), network=replace(NETWORK, num_heads=5))
    assert caught.value.code == "bad_checkpoint"


@pytest.mark.parametrize("act", ["gelu_fast", "gelu_new", "gelu_pytorch_tanh"])
def test_a_config_that_agrees_is_no_hindrance(tmp_path: Path, act: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"hidden_act": act}))
    load(write(tmp_path, old_tensors()))
    (tmp_path / "config.json").write_text("{}")
    load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "gelu"),
        ("hidden_act", "relu"),
        ("num_attention_heads", 4),
        ("tubelet_size", [2, 8, 4]),
        ("tubelet_size", "2x8x8"),
        ("image_size", 48),
        ("num_frames", 12),
        ("layer_norm_eps", 1e-12),
        ("model_type", "videomae"),
    ],
)
def test_a_config_that_contradicts_is_an_error(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {key: value}))
    with pytest.raises(RecipeError, match=rf"config.json beside the checkpoint says {key} ") as caught:
        load(write(tmp_path, old_tensors()))
    assert caught.value.code == "bad_checkpoint"


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000, "\ud800"])
def test_a_config_that_is_none_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RecipeError, match=r"config.json beside the checkpoint") as caught:
        load(write(tmp_path, old_tensors()))
    assert caught.value.code == "bad_checkpoint"


WHOLE = save(old_tensors())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 100,
        WHOLE[:-10],
        WHOLE[:100],
        WHOLE + b"\x00",
        b"\xff" * 8 + b"{}",
        b"\x02" + b"\x00" * 7 + b"{}",
        b"PK\x03\x04 no archive",
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
    ids=["empty", "zeros", "cut off", "cut in the header", "too long", "length", "no tensors", "zip", "LFS pointer"],
)
def test_files_that_are_something_else_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(RecipeError) as caught:
        load(path)
    assert caught.value.code == "bad_checkpoint"


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, len(WHOLE) // 4), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused_but_never_another_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    data = bytearray(WHOLE)
    data[at] = value
    path = tmp_path_factory.mktemp("changed") / "model.safetensors"
    path.write_bytes(data)
    with suppress(RecipeError):
        load(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(RecipeError, match=r"cannot read|must be a file") as caught:
            load(path)
        assert caught.value.code == "bad_checkpoint"
