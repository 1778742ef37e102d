"""VidTr's files of gluonmm: read by their shapes, and refused where recipe and file do not belong together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tubelet.checkpoints import gluonmm
from tubelet.checkpoints.mapping import from_state
from tubelet.models.network import VideoNetwork
from tubelet.models.vidtr import CompactVidtr, CompactVidtrSizes, JointVidtr, SeparableVidtr, VidtrSizes
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import VidtrNetwork

SIZES = VidtrSizes(
    num_frames=6,
    patch_frames=2,
    crop_px=12,
    patch_px=4,
    width=8,
    num_layers=3,
    num_heads=2,
    mlp_width=12,
    activation="gelu",
    num_classes=5,
)
COMPACT_SIZES = CompactVidtrSizes(**dataclasses.asdict(SIZES), pool_layers=(0, 1), dropped_times=(1, 1))
SEPARABLE = VidtrNetwork(
    family="vidtr", variant="separable", num_heads=2, activation="gelu", pool_layers=(), dropped_frames=()
)
JOINT = dataclasses.replace(SEPARABLE, variant="joint")
COMPACT = dataclasses.replace(SEPARABLE, variant="compact", pool_layers=(0, 1), dropped_frames=(1, 1))

MODELS = {
    "separable": (SEPARABLE, lambda: SeparableVidtr(SIZES)),
    "joint": (JOINT, lambda: JointVidtr(SIZES)),
    "compact": (COMPACT, lambda: CompactVidtr(COMPACT_SIZES)),
}


def random_model(name: str) -> Any:
    model = MODELS[name][1]()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def leaves(name: str) -> dict[str, Tensor]:
    """The tensors as gluonmm names them."""
    model = random_model(name)
    return from_state(model.state_dict(), gluonmm.rows(model))


def save(path: Path, tensors: dict[str, Tensor], *, prefix: str = "module.") -> Path:
    torch.save({"model": {prefix + name: tensor for name, tensor in tensors.items()}, "epoch": 3}, path)
    return path


def load(path: Path, network: VidtrNetwork = SEPARABLE, *, num_frames: int = 6, crop_px: int = 12) -> VideoNetwork:
    return gluonmm.load(path, network, num_frames=num_frames, crop_px=crop_px)


def refuse(path: Path, match: str, *, code: str = "bad_checkpoint", **changes: Any) -> None:
    with pytest.raises(RecipeError, match=match) as caught:
        load(path, **changes)
    assert caught.value.code == code


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_gluonmm_gives_its_network(tmp_path: Path, name: str) -> None:
    model, network = random_model(name), MODELS[name][0]
    read = load(save(tmp_path / "a.pth", leaves(name)), network).eval()
    assert type(read) is type(model)
    assert read.sizes == model.sizes
    clips = torch.randn(2, 6, 12, 12, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(read(clips), model(clips))


def test_the_table_has_gluonmms_names() -> None:
    names = {f"encoder.layers.1.self_attn.in_proj_{kind}" for kind in ("weight", "bias")}
    for module in ("self_attn.out_proj", "linear1", "linear2", "norm1", "norm2"):
        names |= {f"encoder.layers.1.{module}.{kind}" for kind in ("weight", "bias")}
    common = {f"{module}.{kind}" for module in ("conv_stem", "encoder.norm", "fc") for kind in ("weight", "bias")}
    for variant, tokens in (("separable", {"cls_s", "cls_t"}), ("joint", {"cls"}), ("compact", {"cls"})):
        found = {name for name in leaves(variant) if not name.startswith(("encoder.layers.0.", "encoder.layers.2."))}
        assert found == names | common | tokens | {"pos_embedding"}


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_the_prefix_may_be_there_or_not(tmp_path: Path, prefix: str) -> None:
    load(save(tmp_path / "a.pth", leaves("separable"), prefix=prefix))


def test_the_tensors_alone_are_read_too(tmp_path: Path) -> None:
    torch.save(leaves("separable"), tmp_path / "a.pth")
    load(tmp_path / "a.pth")


def test_a_start_for_training_is_refused(tmp_path: Path) -> None:
    image = {name: tensor for name, tensor in leaves("joint").items() if not name.startswith("fc.")}
    torch.save(image, tmp_path / "vit_inflate.pth")
    for network in (SEPARABLE, JOINT, COMPACT):
        refuse(tmp_path / "vit_inflate.pth", "has no classifier .*trained on videos", network=network)


def test_the_other_kind_of_tokens_is_refused(tmp_path: Path) -> None:
    refuse(save(tmp_path / "a.pth", leaves("compact")), "VidTr has cls_s")
    grid = save(tmp_path / "b.pth", leaves("separable"))
    refuse(grid, r"is for 40 tokens \(pos_embedding\).* have 28", network=COMPACT)
    refuse(grid, r"is for 40 tokens \(pos_embedding\).* have 28", network=JOINT)


def test_other_clips_than_the_tables_are_refused(tmp_path: Path) -> None:
    separable, joint = save(tmp_path / "a.pth", leaves("separable")), save(tmp_path / "b.pth", leaves("joint"))
    message = r"is for 3 times and 9 places at each \(cls_s, cls_t\), the recipe's clips of {}"
    refuse(separable, message.format("8 frames of 12 pixels have 4 and 9"), num_frames=8)
    refuse(separable, message.format("6 frames of 16 pixels have 3 and 16"), crop_px=16)
    refuse(joint, r"is for 28 tokens .* clips of 8 frames of 12 pixels have 37", network=JOINT, num_frames=8)
    refuse(separable, "patches are 2x4x4, .* 7 frames of 12 pixels no multiple", num_frames=7)
    refuse(separable, "patches are 2x4x4, .* 6 frames of 13 pixels no multiple", crop_px=13)


def test_heads_and_poolings_that_fit_no_network_are_the_recipes_fault(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", leaves("compact"))
    refuse(path, "must divide .* 8, got 3", network=dataclasses.replace(COMPACT, num_heads=3), code="bad_recipe")
    for layers, dropped, match in (
        ((0, 2), (1, 1), "a layer must follow"),
        ((5,), (1,), "a layer must follow"),
        ((0, 1), (1, 2), "of 3 times one must be left"),
    ):
        network = dataclasses.replace(COMPACT, pool_layers=layers, dropped_frames=dropped)
        refuse(path, match, network=network, code="bad_recipe")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"encoder.norm.bias": None}, r"lacks encoder\.norm\.bias"),
        ({"encoder.layers.1.linear2.bias": None}, r"lacks encoder\.layers\.1\.linear2\.bias"),
        ({"encoder.layers.9.norm1.bias": torch.zeros(8)}, r"lacks encoder\.layers\.3"),
        ({"extra.weight": torch.zeros(8)}, r"VidTr has no extra\.weight"),
        ({"fc.bias": torch.zeros(6)}, r"fc\.bias must have shape \(5,\), got \(6,\)"),
        ({"fc.bias": torch.full((5,), torch.inf)}, r"fc\.bias holds numbers that are not finite"),
        ({"fc.bias": torch.zeros(5, dtype=torch.int64)}, r"fc\.bias holds numbers of another kind"),
        ({"fc.weight": torch.zeros(5, 9)}, r"fc\.weight must have shape \(5, 8\)"),
        ({"fc.weight": torch.zeros(0, 8)}, r"fc\.weight must have 2 axes, none of them empty"),
        ({"conv_stem.weight": torch.zeros(8, 3, 4, 4)}, r"conv_stem\.weight must have 5 axes"),
        ({"conv_stem.weight": torch.zeros(8, 3, 2, 4, 5)}, "square patches of 3 channels, .* is for 4x5 of 3"),
        ({"conv_stem.weight": torch.zeros(8, 1, 2, 4, 4)}, "square patches of 3 channels, .* is for 4x4 of 1"),
        ({"encoder.layers.0.linear1.weight": None}, r"VidTr has encoder\.layers\.0\.linear1\.weight"),
        ({"cls_t": torch.zeros(1, 10, 9)}, r"cls_t must have shape \(1, 10, 8\)"),
    ],
)
def test_tensors_that_are_not_exactly_the_networks_are_refused(
    tmp_path: Path, change: dict[str, Tensor | None], match: str
) -> None:
    changed = {name: tensor for name, tensor in (leaves("separable") | change).items() if tensor is not None}
    refuse(save(tmp_path / "a.pth", changed), match)


def test_another_network_is_refused(tmp_path: Path) -> None:
    refuse(save(tmp_path / "a.pth", {"conv1.weight": torch.zeros(2)}, prefix=""), r"VidTr has conv_stem\.weight")
    (tmp_path / "b.pth").write_bytes(b"no checkpoint")
    refuse(tmp_path / "b.pth", r"b\.pth is no checkpoint")
