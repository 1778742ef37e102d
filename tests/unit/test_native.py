"""Our own checkpoints: what was saved comes back, for every family; whatever else a file says is an error."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from tubelet.checkpoints import native
from tubelet.models.i3d import I3dSizes, StageSizes
from tubelet.models.longformer import LongformerSizes
from tubelet.models.network import VideoNetwork
from tubelet.models.registry import build
from tubelet.models.resnet import ResnetImageSizes
from tubelet.models.vidtr import CompactVidtrSizes, VidtrSizes
from tubelet.models.vit_image import VitImageSizes
from tubelet.models.vivit_sizes import (
    EncoderSizes,
    FactorisedDotProductSizes,
    FactorisedEncoderSizes,
    FactorisedSelfAttentionSizes,
    JointSizes,
    TubeletSizes,
    UniformFrameSizes,
)
from tubelet.models.vtn import VtnSizes
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import I3dNetwork, Network, VidtrNetwork, VivitNetwork, VtnNetwork

ENCODER = EncoderSizes(num_layers=2, num_heads=2, mlp_width=12)
VIVIT: dict[str, Any] = {
    "num_frames": 4,
    "crop_px": 8,
    "embedding": TubeletSizes(kind="tubelet", frames=2, patch_px=4),
    "width": 8,
    "encoder": ENCODER,
    "classifier": "gap",
    "representation_width": None,
    "num_classes": 3,
}
FACTORISED: dict[str, Any] = {
    "num_frames": 4,
    "tubelet_frames": 2,
    "crop_px": 8,
    "patch_px": 4,
    "width": 8,
    "spatial": ENCODER,
    "classifier": "token",
    "representation_width": 6,
    "num_classes": 3,
}
VTN: dict[str, Any] = {"num_frames": 4, "crop_px": 8, "head_width": 5, "num_classes": 3}
IMAGE: dict[str, Any] = {"kind": "vit", "patch_px": 4, "width": 8, "num_layers": 1, "num_heads": 2, "mlp_width": 12}
VIDTR: dict[str, Any] = {
    "num_frames": 4,
    "patch_frames": 1,
    "crop_px": 8,
    "patch_px": 4,
    "width": 8,
    "num_layers": 3,
    "num_heads": 2,
    "mlp_width": 12,
    "activation": "relu",
    "num_classes": 3,
}


def longformer(positions: Any = "learned", rows: int | None = 10) -> LongformerSizes:
    return LongformerSizes(num_heads=2, mlp_width=12, attention_window=(2, 4), positions=positions, max_positions=rows)


def vivit(variant: Any, *, classifier: Any = "gap", order: Any = None) -> VivitNetwork:
    return VivitNetwork(
        family="vivit",
        variant=variant,
        classifier=classifier,
        attention_order=order,
        sampled_frames=None,
        num_heads=None,
    )


def vtn(variant: Any, *, positions: Any = "learned", rows: int | None = None) -> VtnNetwork:
    return VtnNetwork(
        family="vtn",
        variant=variant,
        backbone_heads=None if variant == "resnet" else 2,
        temporal_heads=2,
        attention_window=(2, 4),
        positions=positions,
        max_positions=rows,
    )


def vidtr(variant: Any, *, pool_layers: tuple[int, ...] = (), dropped: tuple[int, ...] = ()) -> VidtrNetwork:
    return VidtrNetwork(
        family="vidtr",
        variant=variant,
        num_heads=2,
        activation="relu",
        pool_layers=pool_layers,
        dropped_frames=dropped,
    )


SEPARABLE = (vidtr("separable"), VidtrSizes(**VIDTR))
CASES: dict[str, tuple[Network, Any]] = {
    "vivit 1": (vivit("spatio_temporal", classifier="token"), JointSizes(**VIVIT | {"classifier": "token"})),
    "vivit 1, frames": (
        vivit("spatio_temporal"),
        JointSizes(**VIVIT | {"embedding": UniformFrameSizes(kind="uniform_frames", frames=2, patch_px=4)}),
    ),
    "vivit 2": (
        vivit("factorised_encoder", classifier="token"),
        FactorisedEncoderSizes(**FACTORISED, temporal=ENCODER),
    ),
    "vivit 2, average": (
        vivit("average_pool", classifier="token"),
        FactorisedEncoderSizes(**FACTORISED, temporal=None),
    ),
    "vivit 3": (
        vivit("factorised_self_attention", order="space_time"),
        FactorisedSelfAttentionSizes(**VIVIT, attention_order="space_time"),
    ),
    "vivit 4": (vivit("factorised_dot_product"), FactorisedDotProductSizes(**VIVIT)),
    "vtn": (vtn("vit"), VtnSizes(**VTN, backbone=VitImageSizes(**IMAGE, is_distilled=False), temporal=longformer())),
    "vtn, distilled": (
        vtn("vit_distilled", positions="none"),
        VtnSizes(**VTN, backbone=VitImageSizes(**IMAGE, is_distilled=True), temporal=longformer("none", None)),
    ),
    "vtn, resnet": (
        vtn("resnet", positions="sinusoidal", rows=10),
        VtnSizes(
            **VTN,
            backbone=ResnetImageSizes(kind="resnet", stem_width=4, widths=(2, 2), num_blocks=(1, 2)),
            temporal=longformer("sinusoidal"),
        ),
    ),
    "vidtr": SEPARABLE,
    "vidtr, joint": (vidtr("joint"), VidtrSizes(**VIDTR)),
    "vidtr, compact": (
        vidtr("compact", pool_layers=(0,), dropped=(2,)),
        CompactVidtrSizes(**VIDTR, pool_layers=(0,), dropped_times=(2,)),
    ),
    "i3d": (
        I3dNetwork(family="i3d", variant="slow_resnet"),
        I3dSizes(
            num_frames=4,
            crop_px=8,
            stem_width=4,
            stem_kernel_frames=1,
            stages=(StageSizes(inner_width=2, outer_width=8, kernel_frames=((1, 1), (3, 1))),),
            num_classes=3,
        ),
    ),
}


def random_model(network: Network, sizes: Any) -> VideoNetwork:
    model = build(network, sizes)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    native.save(path, random_model(*SEPARABLE), SEPARABLE[0])
    return path


def load(path: Path, network: Network = SEPARABLE[0], *, num_frames: int = 4, crop_px: int = 8) -> VideoNetwork:
    return native.load(path, network, num_frames=num_frames, crop_px=crop_px).eval()


def refuse(path: Path, match: str, **changes: Any) -> None:
    with pytest.raises(RecipeError, match=match) as caught:
        load(path, **changes)
    assert caught.value.code == "bad_checkpoint"


def rewrite(path: Path, *, description: Any = None, tensors: dict[str, Tensor] | None = None) -> Path:
    """The file again, with another description or other tensors."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    if description is not None:
        metadata = {"tubelet": description if isinstance(description, str) else json.dumps(description)}
    safetensors.torch.save_file(safetensors.torch.load_file(path) if tensors is None else tensors, path, metadata)
    return path


def described(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt") as file:
        return dict(json.loads(file.metadata()["tubelet"]))


@pytest.mark.parametrize("name", CASES)
def test_what_was_saved_comes_back(tmp_path: Path, name: str) -> None:
    network, sizes = CASES[name]
    model = random_model(network, sizes)
    native.save(tmp_path / "a.safetensors", model, network)
    read = load(tmp_path / "a.safetensors", network)
    assert type(read) is type(model)
    assert read.sizes == sizes
    clips = torch.randn(2, 4, 8, 8, 3, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(4).expand(2, 4)
    with torch.inference_mode():
        assert torch.equal(read(clips, positions), model(clips, positions))


@pytest.mark.parametrize("name", ["vidtr", "i3d", "vtn"])
def test_the_same_weights_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    network, sizes = CASES[name]
    for path in (tmp_path / "a", tmp_path / "b"):
        native.save(path, random_model(network, sizes), network)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    native.save(tmp_path / "c", load(tmp_path / "a", network), network)
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()


def test_the_weights_are_a_copy(saved: Path) -> None:
    model = load(saved)
    before = model.head.weight.clone()  # type: ignore[operator, union-attr]
    saved.write_bytes(bytes(saved.stat().st_size))
    assert torch.equal(model.head.weight, before)  # type: ignore[union-attr, arg-type]


def test_half_precision_is_saved_as_single(tmp_path: Path) -> None:
    model = random_model(*SEPARABLE).half()
    native.save(tmp_path / "a", model, SEPARABLE[0])
    assert {tensor.dtype for tensor in load(tmp_path / "a").state_dict().values()} == {torch.float32}


def test_another_network_than_the_recipes_is_refused(saved: Path) -> None:
    refuse(saved, r"differ in num_heads \(file: 2, recipe: 4\)", network=dataclasses.replace(SEPARABLE[0], num_heads=4))
    refuse(saved, r"variant \(file: separable, recipe: joint\)", network=CASES["vidtr, joint"][0])
    refuse(saved, r"family \(file: vidtr, recipe: i3d\)", network=CASES["i3d"][0])


def test_other_clips_than_the_recipes_are_refused(saved: Path) -> None:
    refuse(saved, "is for clips of 4 frames of 8 pixels, the recipe's have 6 of 8", num_frames=6)
    refuse(saved, "is for clips of 4 frames of 8 pixels, the recipe's have 4 of 12", crop_px=12)


def test_vtn_takes_clips_of_any_length(tmp_path: Path) -> None:
    network, sizes = CASES["vtn"]
    native.save(tmp_path / "a", random_model(network, sizes), network)
    assert load(tmp_path / "a", network, num_frames=250).num_frames == 250
    refuse(tmp_path / "a", "the recipe's have 250 of 16", network=network, num_frames=250, crop_px=16)


def test_tensors_that_are_not_exactly_the_networks_are_refused(saved: Path) -> None:
    whole = safetensors.torch.load_file(saved)
    less = {name: tensor for name, tensor in whole.items() if name != "norm.bias"}
    refuse(rewrite(saved, tensors=less), r"lacks norm\.bias")
    refuse(rewrite(saved, tensors=whole | {"norm.more": torch.zeros(1)}), r"this vidtr has no norm\.more")
    refuse(rewrite(saved, tensors=whole | {"norm.bias": torch.zeros(9)}), r"norm\.bias must have shape \(8,\)")
    refuse(rewrite(saved, tensors=whole | {"norm.bias": torch.full((8,), torch.nan)}), "not finite")
    refuse(rewrite(saved, tensors=whole | {"norm.bias": torch.zeros(8).half()}), r"F32 and I64, norm\.bias is none")
    refuse(rewrite(saved, tensors=whole | {"norm.bias": torch.zeros(8).long()}), "of another kind")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_layers": "3"}, r"metadata\.sizes\.num_layers must be a value of type int"),
        ({"num_layers": True}, r"num_layers must be a value of type int"),
        ({"num_layers": 10**9}, "claims num_layers of 1000000000, and holds 45 tensors"),
        ({"num_layers": -1}, "lacks|has no"),
        ({"activation": "tanh"}, "activation must be one of"),
        ({"surprise": 1}, "unknown keys surprise"),
        ({"num_heads": 3}, "sizes that no vidtr can have"),
        ({"num_heads": 0}, "sizes that no vidtr can have"),
        ({"patch_px": 0}, "sizes that no vidtr can have"),
        ({"patch_frames": 0}, "sizes that no vidtr can have"),
        ({"width": -8}, "sizes that no vidtr can have"),
        ({"mlp_width": 10**18}, "sizes that no vidtr can have|must have shape"),
        ({"num_classes": 10**30}, "sizes that no vidtr can have|must have shape"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(saved: Path, change: dict[str, Any], match: str) -> None:
    description = described(saved)
    description["sizes"] |= change
    refuse(rewrite(saved, description=description), match)


@pytest.mark.parametrize(
    ("description", "match"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[" * 10**5, "is no JSON"),
        ("[]", "must have network and sizes"),
        ("{}", "must have network and sizes"),
        ({"network": None, "sizes": {}}, r"metadata\.network must be a table"),
        ({"network": {"family": "resnet"}, "sizes": {}}, r"metadata\.network\.family must be one of"),
        ({"network": {"family": []}, "sizes": {}}, r"metadata\.network\.family must be one of"),
        ({"network": {"family": "i3d"}, "sizes": {}}, "lacks variant"),
        ({"network": {"family": "i3d", "variant": "slow_resnet"}, "sizes": 3}, r"metadata\.sizes must be a table"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(saved: Path, description: Any, match: str) -> None:
    refuse(rewrite(saved, description=description), match)


def test_a_file_of_others_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "a")
    refuse(tmp_path / "a", "has no tubelet in its metadata")
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "a", {"format": "pt"})
    refuse(tmp_path / "a", "has no tubelet in its metadata")


def test_no_file_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path, "must be a file")
    refuse(tmp_path / "nothing", "cannot read nothing: No such file")
    (tmp_path / "empty").touch()
    refuse(tmp_path / "empty", "is empty")
    os.mkfifo(tmp_path / "pipe")
    refuse(tmp_path / "pipe", "a pipe or a device")


def test_broken_files_are_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    contents = [whole[:length] for length in (1, 7, 8, 9, header // 2, header + 8, header + 9, len(whole) - 1)]
    contents += [whole + b"\0", b"<html>", struct.pack("<Q", 2**63) + whole[8:], struct.pack("<Q", 2) + b"[]"]
    contents.append(whole.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1))
    contents.append(whole.replace(b'"dtype":"F32"', b'"dtype":"X99"', 1))
    contents.append(whole.replace(b'"shape":[8]', b'"shape":[9]', 1))
    for content in contents:
        assert content != whole
        saved.write_bytes(content)
        refuse(saved, "is no safetensors file, or it is cut off")


def test_flipped_bytes_of_the_header_never_let_another_error_through(saved: Path) -> None:
    whole = saved.read_bytes()
    for place in range(0, 8 + int.from_bytes(whole[:8], "little"), 5):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            load(saved)
        except RecipeError as exc:
            assert exc.code == "bad_checkpoint"  # noqa: PT017
