"""Image models as backbones of VTN: the tensors of timm's ViT and DeiT and of torchvision's ResNet, sizes and names.

Sources: ``timm/models/vision_transformer.py``; ``torchvision/models/resnet.py``. The same names, behind ``backbone.``,
stand in VTN's own files (`tubelet.checkpoints.slowfast`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from tubelet.checkpoints.mapping import Parameters, Row, num_blocks, shape_of, to_state
from tubelet.models.resnet import ResnetImage, ResnetImageSizes
from tubelet.models.vit_image import VitImage, VitImageSizes
from tubelet.models.vtn import Vtn
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import VtnNetwork

__all__ = ["BackboneStart", "backbone_rows", "backbone_sizes", "backbone_start", "without_counters"]

Backbone = VitImage | ResnetImage

_TITLES = {"vit": "ViT or DeiT", "vit_distilled": "DeiT with a distillation token", "resnet": "ResNet"}

_CLASSIFIERS = {VitImage: ("head.", "head_dist."), ResnetImage: ("fc.",)}
"""Of image classes; VTN has none in its backbone."""


@dataclass(frozen=True, slots=True)
class BackboneStart:
    """What an image model gives to a VTN, and what it cannot give."""

    tensors: dict[str, Tensor]
    """By the names of the VTN's state dict, float32."""
    missing: tuple[str, ...]
    """The other names of the state dict: temporal encoder and head. Whoever trains must initialise them."""
    dropped: tuple[str, ...]
    """Names of the image model that a backbone does not need: its classifier, or its classifiers."""


def backbone_start(image: Parameters, network: Vtn) -> BackboneStart:
    """Makes the start of a VTN out of an image model.

    Args:
        image: state dict of timm's ViT or DeiT, or of torchvision's ResNet, with or without classifier.
        network: whose sizes count; its values are not read.

    Raises:
        RecipeError: ``bad_checkpoint``, naming the tensors that are missing, unknown or of another shape.
    """
    dropped = tuple(name for name in image if name.startswith(_CLASSIFIERS[type(network.backbone)]))
    given = {name: tensor for name, tensor in without_counters(image).items() if name not in dropped}
    state = network.state_dict()
    rows = list(backbone_rows(network.backbone, "backbone.", ""))
    tensors = to_state(state, given, rows, what="the image model of this network")
    return BackboneStart(tensors, tuple(name for name in state if name not in tensors), dropped)


def backbone_sizes(
    parameters: Parameters, network: VtnNetwork, *, prefix: str, crop_px: int
) -> VitImageSizes | ResnetImageSizes:
    """Reads a backbone's sizes from its tensors, whose names start with ``prefix``.

    Raises:
        RecipeError: ``bad_checkpoint``: another backbone than the recipe says, or one for frames of another size;
            ``bad_recipe``: ``backbone_heads`` does not divide the width.
    """
    if f"{prefix}conv1.weight" in parameters:
        found = "resnet"
    else:
        found = "vit_distilled" if f"{prefix}dist_token" in parameters else "vit"
    if found != network.variant:
        raise RecipeError(
            "bad_checkpoint",
            f"the recipe says variant {network.variant} ({_TITLES[network.variant]}); this checkpoint's backbone looks "
            f"like {found} ({_TITLES[found]})",
        )
    if network.backbone_heads is None:
        return _resnet_sizes(parameters, prefix)
    return _vit_sizes(parameters, prefix, network.backbone_heads, found == "vit_distilled", crop_px)


def backbone_rows(backbone: Backbone, ours: str, theirs: str) -> Iterator[Row]:
    """Which tensors of timm or torchvision, named behind ``theirs``, make which of a backbone, behind ``ours``."""
    if isinstance(backbone, ResnetImage):
        for name in backbone.state_dict():
            yield Row(f"{ours}{name}", (f"{theirs}{_in_torchvision(name)}",))
        return
    yield Row(f"{ours}class_token", (f"{theirs}cls_token",))
    if backbone.distillation_token is not None:
        yield Row(f"{ours}distillation_token", (f"{theirs}dist_token",))
    yield Row(f"{ours}positions", (f"{theirs}pos_embed",))
    modules = {"embedding": "patch_embed.proj", "norm": "norm"}
    for i in range(len(backbone.blocks)):
        modules |= {
            f"blocks.{i}.attention_norm": f"blocks.{i}.norm1",
            f"blocks.{i}.attention.qkv": f"blocks.{i}.attn.qkv",
            f"blocks.{i}.attention.out": f"blocks.{i}.attn.proj",
            f"blocks.{i}.mlp_norm": f"blocks.{i}.norm2",
            f"blocks.{i}.mlp.0": f"blocks.{i}.mlp.fc1",
            f"blocks.{i}.mlp.2": f"blocks.{i}.mlp.fc2",
        }
    for our_module, their_module in modules.items():
        for kind in ("weight", "bias"):
            yield Row(f"{ours}{our_module}.{kind}", (f"{theirs}{their_module}.{kind}",))


def without_counters(parameters: Parameters) -> dict[str, Tensor]:
    """Leaves out how many batches each batch norm has seen, which says nothing at inference."""
    counters = {f"{name.removesuffix('running_mean')}num_batches_tracked" for name in parameters}
    return {name: tensor for name, tensor in parameters.items() if name not in counters}


def _in_torchvision(name: str) -> str:
    """``stages.0.1.bn1.bias`` -> ``layer1.1.bn1.bias``."""
    if not name.startswith("stages."):
        return name
    _, stage, rest = name.split(".", 2)
    return f"layer{int(stage) + 1}.{rest}"


def _vit_sizes(parameters: Parameters, prefix: str, num_heads: int, is_distilled: bool, crop_px: int) -> VitImageSizes:
    what = "the backbone of this network"
    width, _, patch_px, patch_width = shape_of(parameters, f"{prefix}patch_embed.proj.weight", 4, what=what)
    num_rows = shape_of(parameters, f"{prefix}pos_embed", 3, what=what)[1]
    num_patches = num_rows - 1 - is_distilled
    if patch_px != patch_width or num_patches < 1 or num_patches != (crop_px // patch_px) ** 2:
        raise RecipeError(
            "bad_checkpoint",
            f"the backbone has positions for {num_patches} patches of {patch_px}x{patch_width} px ({prefix}pos_embed); "
            f"frames of {crop_px} px (crop.size_px) have {(crop_px // patch_px) ** 2}",
        )
    if width % num_heads:
        raise RecipeError("bad_recipe", f"backbone_heads must divide the backbone's width {width}, got {num_heads}")
    return VitImageSizes(
        kind="vit",
        patch_px=patch_px,
        width=width,
        num_layers=num_blocks(parameters, f"{prefix}blocks."),
        num_heads=num_heads,
        mlp_width=shape_of(parameters, f"{prefix}blocks.0.mlp.fc1.weight", 2, what=what)[0],
        is_distilled=is_distilled,
    )


def _resnet_sizes(parameters: Parameters, prefix: str) -> ResnetImageSizes:
    what = "a ResNet with bottleneck blocks (50 layers or more)"
    num_stages = num_blocks(parameters, f"{prefix}layer")
    stages = [f"{prefix}layer{i + 1}." for i in range(max(num_stages, 1))]
    for stage in stages:
        shape_of(parameters, f"{stage}0.conv3.weight", 4, what=what)
    return ResnetImageSizes(
        kind="resnet",
        stem_width=shape_of(parameters, f"{prefix}conv1.weight", 4, what=what)[0],
        widths=tuple(shape_of(parameters, f"{stage}0.conv1.weight", 4, what=what)[0] for stage in stages),
        num_blocks=tuple(num_blocks(parameters, stage) for stage in stages),
    )
