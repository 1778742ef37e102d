"""I3D's files of GluonCV: any depth, width and inflation by its shapes; MXNet's files and other networks refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tubelet.checkpoints import gluoncv
from tubelet.checkpoints.mapping import from_state
from tubelet.models.i3d import I3dSizes, SlowResnet, StageSizes
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import I3dNetwork

NETWORK = I3dNetwork(family="i3d", variant="slow_resnet")
PLAIN, INFLATED, INFLATED_3X3X3 = (1, 1), (3, 1), (1, 3)


def sizes(
    *stages: StageSizes, stem_width: int = 4, stem_kernel_frames: int = 1, num_frames: int = 3, crop_px: int = 20
) -> I3dSizes:
    return I3dSizes(
        num_frames=num_frames,
        crop_px=crop_px,
        stem_width=stem_width,
        stem_kernel_frames=stem_kernel_frames,
        stages=stages,
        num_classes=5,
    )


def stage(inner: int, outer: int, *kernel_frames: tuple[int, int]) -> StageSizes:
    return StageSizes(inner_width=inner, outer_width=outer, kernel_frames=kernel_frames)


USUAL = sizes(stage(2, 8, PLAIN, PLAIN), stage(3, 12, INFLATED, INFLATED))
CASES = {
    "usual": USUAL,
    "every other block inflated": sizes(stage(2, 8, PLAIN, INFLATED, PLAIN), stage(3, 12, INFLATED, PLAIN)),
    "3x3x3": sizes(stage(2, 8, PLAIN), stage(3, 12, INFLATED_3X3X3, INFLATED_3X3X3)),
    "stem over 5 frames": sizes(stage(2, 8, PLAIN), stem_kernel_frames=5),
    "first stage as wide as the stem": sizes(stage(2, 4, PLAIN), stage(2, 4, PLAIN)),
    "five stages": sizes(*(stage(2, 4 + i, PLAIN) for i in range(5))),
}


def random_model(which: I3dSizes) -> SlowResnet:
    model = SlowResnet(which)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(1 + torch.rand(tensor.shape, generator=generator))
        elif tensor.is_floating_point():
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
        else:
            tensor.fill_(7)
    return model.eval()


def leaves(which: I3dSizes = USUAL) -> dict[str, Tensor]:
    """The tensors as GluonCV names them."""
    model = random_model(which)
    found = from_state(model.state_dict(), gluoncv.rows(model))
    return {name: tensor.long() if name.endswith("tracked") else tensor for name, tensor in found.items()}


def save(path: Path, tree: Any) -> Path:
    torch.save(tree, path)
    return path


def load(path: Path, *, num_frames: int = 3, crop_px: int = 20) -> SlowResnet:
    return gluoncv.load(path, NETWORK, num_frames=num_frames, crop_px=crop_px)


def refuse(path: Path, match: str) -> None:
    with pytest.raises(RecipeError, match=match) as caught:
        load(path)
    assert caught.value.code == "bad_checkpoint"


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_gluoncv_gives_its_network(tmp_path: Path, name: str) -> None:
    model = random_model(CASES[name])
    read = load(save(tmp_path / "a.pth", leaves(CASES[name]))).eval()
    assert read.sizes == model.sizes
    clips = torch.randn(2, 3, 20, 20, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(read(clips), model(clips))
    assert torch.equal(read.state_dict()["stem_norm.num_batches_tracked"], torch.tensor(7))


def test_the_table_has_gluoncvs_names() -> None:
    names = list(leaves(sizes(stage(2, 8, PLAIN))))
    kinds = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    expected = ["conv1.weight", *(f"bn1.{kind}" for kind in kinds), "fc.weight", "fc.bias"]
    for i in (1, 2, 3):
        expected += [f"layer1.0.conv{i}.weight", *(f"layer1.0.bn{i}.{kind}" for kind in kinds)]
    expected += ["layer1.0.downsample.0.weight", *(f"layer1.0.downsample.1.{kind}" for kind in kinds)]
    assert sorted(names) == sorted(expected)


def test_a_trainers_wrapping_comes_off(tmp_path: Path) -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in leaves().items()}
    assert load(save(tmp_path / "a.pth", {"state_dict": wrapped, "epoch": 3})).sizes == USUAL


def test_clips_of_any_size_are_taken(tmp_path: Path) -> None:
    model = load(save(tmp_path / "a.pth", leaves()), num_frames=7, crop_px=33).eval()
    assert (model.num_frames, model.crop_px) == (7, 33)
    with torch.inference_mode():
        assert model(torch.zeros(1, 7, 33, 33, 3)).shape == (1, 5)


def test_files_of_mxnet_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "i3d_slow_resnet50.params"
    path.write_bytes((0x112).to_bytes(8, "little") + bytes(64))
    refuse(path, r"a \.params file of MXNet.*take its \.pth")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"bn1.running_var": None}, r"lacks bn1\.running_var"),
        ({"layer2.1.conv2.weight": None}, r"has layer2\.1\.conv2\.weight"),
        ({"layer2.1.bn2.bias": None}, r"lacks layer2\.1\.bn2\.bias"),
        ({"layer1.0.downsample.0.weight": None}, r"lacks layer1\.0\.downsample\.0\.weight"),
        ({"layer2.1.downsample.0.weight": torch.zeros(12, 12, 1, 1, 1)}, r"has no layer2\.1\.downsample"),
        ({"layer1.0.nonlocal_block.g.weight": torch.zeros(2)}, r"has no layer1\.0\.nonlocal_block"),
        ({"layer1.0.conv3.weight": None}, r"the slow ResNet I3D has layer1\.0\.conv3\.weight"),
        ({"conv1.weight": torch.zeros(4, 3, 7, 7)}, r"conv1\.weight must have 5 axes"),
        ({"conv1.weight": torch.zeros(4, 3, 1, 5, 5)}, r"conv1\.weight must have shape \(4, 3, 1, 7, 7\)"),
        ({"conv1.weight": torch.zeros(4, 3, 2, 7, 7)}, "odd number of frames"),
        ({"layer1.0.conv1.weight": torch.zeros(2, 4, 2, 1, 1)}, "odd numbers of frames"),
        ({"layer9.0.conv1.weight": torch.zeros(2, 4, 1, 1, 1)}, r"has layer3\.0\.conv3\.weight"),
        ({"fc.weight": torch.zeros(5, 3)}, r"fc\.weight must have shape \(5, 12\)"),
        ({"bn1.bias": torch.full((4,), torch.nan)}, "not finite"),
        ({"bn1.num_batches_tracked": torch.tensor(1.0)}, "of another kind"),
    ],
)
def test_tensors_that_are_not_exactly_the_networks_are_refused(
    tmp_path: Path, change: dict[str, Tensor | None], match: str
) -> None:
    changed = {name: tensor for name, tensor in (leaves() | change).items() if tensor is not None}
    refuse(save(tmp_path / "a.pth", changed), match)


def test_no_stages_and_other_files_are_refused(tmp_path: Path) -> None:
    stem = {name: tensor for name, tensor in leaves().items() if not name.startswith("layer")}
    refuse(save(tmp_path / "a.pth", stem), "there must be a stage")
    refuse(save(tmp_path / "b.pth", {"fc.weight": torch.zeros(2, 2)}), r"has conv1\.weight")
    (tmp_path / "c.pth").write_bytes(b"no checkpoint")
    refuse(tmp_path / "c.pth", r"c\.pth is no checkpoint")
    refuse(tmp_path, "must be a file")
