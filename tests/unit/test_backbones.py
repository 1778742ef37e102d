"""Image models as backbones of VTN: timm's and torchvision's names, classifiers dropped by name."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from vtns import PLAIN, RESNET, SIZES, VIT, frames, small_vtn, tensors_of

from tubelet.checkpoints.backbones import backbone_start, without_counters
from tubelet.models.vtn import Vtn
from tubelet.spec.errors import RecipeError

HEADS = {
    "vit": {"head.weight": (10, 24), "head.bias": (10,)},
    "vit_distilled, sinusoidal": {
        "head.weight": (10, 24),
        "head.bias": (10,),
        "head_dist.weight": (10, 24),
        "head_dist.bias": (10,),
    },
    "resnet, no positions": {"fc.weight": (10, 24), "fc.bias": (10,)},
}
"""By kind of VTN: the classifiers of its image model."""


def image_of(model: Vtn) -> dict[str, Tensor]:
    """The state dict of an image model with a VTN's backbone, without classifier."""
    return {
        name.removeprefix("backbone."): tensor
        for name, tensor in tensors_of(model).items()
        if name.startswith("backbone.")
    }


@pytest.mark.parametrize("with_classifier", [True, False])
@pytest.mark.parametrize("kind", HEADS)
def test_a_backbone_sees_what_the_image_model_saw(kind: str, with_classifier: bool) -> None:
    trained, image = small_vtn(kind, seed=1), image_of(small_vtn(kind, seed=1))
    if with_classifier:
        image |= {name: torch.zeros(shape) for name, shape in HEADS[kind].items()}
    with torch.device("meta"):
        shapes = Vtn(SIZES[kind])
    start = backbone_start(image, shapes)
    assert start.dropped == (tuple(HEADS[kind]) if with_classifier else ())
    network = small_vtn(kind, seed=2)
    missing, unexpected = network.load_state_dict(start.tensors, strict=False)
    assert tuple(missing) == start.missing
    assert not unexpected
    assert all(not name.startswith("backbone.") for name in start.missing)
    with torch.inference_mode():
        assert torch.equal(network.encode(frames()), trained.encode(frames()))


@pytest.mark.parametrize(
    ("kind", "change", "match"),
    [
        ("vit", {"cls_token": None}, "lacks cls_token"),
        ("vit", {"dist_token": (1, 1, 24)}, "no dist_token"),
        ("vit", {"pre_logits.fc.weight": (24, 24)}, r"no pre_logits\.fc\.weight"),
        ("vit", {"pos_embed": (1, 17, 24)}, r"pos_embed must have shape \(1, 10, 24\)"),
        ("vit", {"blocks.2.norm1.weight": (24,)}, r"no blocks\.2\.norm1\.weight"),
        ("vit", {"fc.weight": (10, 24)}, r"no fc\.weight"),
        ("resnet, no positions", {"layer2.0.bn1.running_mean": None}, "running_mean"),
        ("resnet, no positions", {"layer1.0.conv1.weight": (3, 5, 3, 3)}, "must have shape"),
        ("resnet, no positions", {"head.weight": (10, 24)}, r"no head\.weight"),
    ],
)
def test_whatever_does_not_fit_is_named(kind: str, change: dict[str, tuple[int, ...] | None], match: str) -> None:
    model = small_vtn(kind)
    image = image_of(model)
    for name, shape in change.items():
        if shape is None:
            del image[name]
        else:
            image[name] = torch.zeros(shape)
    with pytest.raises(RecipeError, match=match) as caught:
        backbone_start(image, model)
    assert caught.value.code == "bad_checkpoint"


def test_image_models_of_other_sizes_are_refused() -> None:
    for backbone in (replace(VIT, width=48), replace(VIT, num_layers=3), replace(VIT, patch_px=4), RESNET):
        with pytest.raises(RecipeError):
            backbone_start(image_of(small_vtn("vit")), Vtn(replace(PLAIN, backbone=backbone)))


def test_only_counters_of_batch_norms_are_left_out() -> None:
    tensors = {
        name: torch.zeros(1) for name in ("bn1.running_mean", "bn1.num_batches_tracked", "x.num_batches_tracked")
    }
    assert list(without_counters(tensors)) == ["bn1.running_mean", "x.num_batches_tracked"]
