"""The networks of the papers at their full sizes, by the name of their recipe.

For counting and for documents: what `tubelet export` builds follows the checkpoint, whose number of layers may be
another. Names with ``@`` have no recipe of their own; they are figures of a paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

from tubelet.models import vivit
from tubelet.models.i3d import I3dSizes, SlowResnet, StageSizes
from tubelet.models.longformer import LongformerSizes
from tubelet.models.network import VideoNetwork
from tubelet.models.resnet import ResnetImageSizes
from tubelet.models.vidtr import CompactVidtr, CompactVidtrSizes, JointVidtr, SeparableVidtr, VidtrSizes
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
from tubelet.models.vtn import Vtn, VtnSizes

__all__ = ["FULL_SIZE"]

_VIT_B = EncoderSizes(num_layers=12, num_heads=12, mlp_width=3072)
_VIT_L = EncoderSizes(num_layers=24, num_heads=16, mlp_width=4096)
_VIT_H = EncoderSizes(num_layers=32, num_heads=16, mlp_width=5120)


def _tubelets(frames: int, patch_px: int = 16) -> TubeletSizes:
    return TubeletSizes(kind="tubelet", frames=frames, patch_px=patch_px)


_VIVIT_B = JointSizes(
    num_frames=32,
    crop_px=224,
    embedding=_tubelets(2),
    width=768,
    encoder=_VIT_B,
    classifier="token",
    representation_width=None,
    num_classes=400,
)
_VIVIT_L = replace(_VIVIT_B, width=1024, encoder=_VIT_L)
_VIVIT_H = replace(_VIVIT_B, width=1280, encoder=_VIT_H, embedding=_tubelets(2, 14))
_FE_B = FactorisedEncoderSizes(
    num_frames=32,
    tubelet_frames=2,
    crop_px=224,
    patch_px=16,
    width=768,
    spatial=_VIT_B,
    temporal=_VIT_B,
    classifier="token",
    representation_width=None,
    num_classes=400,
)
_FE_L = replace(_FE_B, width=1024, spatial=_VIT_L, temporal=_VIT_L)
_FE_H = replace(_FE_B, width=1280, patch_px=14, spatial=_VIT_H, temporal=replace(_VIT_H, num_layers=4))
_FOUR_B, _FOUR_L = replace(_VIT_B, num_layers=4), replace(_VIT_L, num_layers=4)
_UNIFORM = UniformFrameSizes(kind="uniform_frames", frames=16, patch_px=16)


def _pooled(sizes: JointSizes) -> dict[str, Any]:
    """Fields of Model 1 for the models that have no class token."""
    return {field.name: getattr(sizes, field.name) for field in fields(sizes)} | {"classifier": "gap"}


_VIVIT: dict[str, JointSizes | FactorisedEncoderSizes] = {
    "vivit_b_16x2_k400": _VIVIT_B,
    "vivit_b_16x2_k400_hf": _VIVIT_B,
    "vivit_b_16_uniform_frames_k400": replace(_VIVIT_B, embedding=_UNIFORM),
    "vivit_b_16x4_k400@": replace(_VIVIT_B, embedding=_tubelets(4)),
    "vivit_b_16x8_k400@": replace(_VIVIT_B, embedding=_tubelets(8)),
    "vivit_b_16x2_fe_k400": _FE_B,
    "vivit_b_16x2_fe_k400@4_layers": replace(_FE_B, temporal=_FOUR_B),
    "vivit_b_16x2_average_pool_k400": replace(_FE_B, temporal=None),
    "vivit_b_16x2_factorised_self_attention_k400": FactorisedSelfAttentionSizes(
        **_pooled(_VIVIT_B), attention_order="time_space"
    ),
    "vivit_b_16x2_factorised_dot_product_k400": FactorisedDotProductSizes(**_pooled(_VIVIT_B)),
    "vivit_l_16x2_k400": _VIVIT_L,
    "vivit_l_16x2_k400@288_px": replace(_VIVIT_L, crop_px=288),
    "vivit_l_16x2_k400@320_px": replace(_VIVIT_L, crop_px=320),
    "vivit_l_16x2_fe_k400": _FE_L,
    "vivit_l_16x2_fe_k400@4_layers": replace(_FE_L, temporal=_FOUR_L),
    "vivit_l_16x2_fe_k400@128_frames": replace(_FE_L, temporal=_FOUR_L, num_frames=128),
    "vivit_l_16x2_fe_k600": replace(_FE_L, num_classes=600),
    "vivit_l_16x2_fe_ek100": replace(_FE_L, temporal=_FOUR_L, num_classes=397),
    "vivit_l_16x2_fe_ek100@24_layers": replace(_FE_L, num_classes=397),
    "vivit_l_16x2_fe_ssv2": replace(_FE_L, temporal=_FOUR_L, crop_px=256, num_classes=174),
    "vivit_h_14x2_k400": _VIVIT_H,
    "vivit_h_14x2_fe_k400": _FE_H,
}

_IMAGE_VIT_B = VitImageSizes(
    kind="vit", patch_px=16, width=768, num_layers=12, num_heads=12, mlp_width=3072, is_distilled=False
)
_IMAGE_R50 = ResnetImageSizes(kind="resnet", stem_width=64, widths=(64, 128, 256, 512), num_blocks=(3, 4, 6, 3))
_LONGFORMER = LongformerSizes(
    num_heads=12, mlp_width=3072, attention_window=(18, 18, 18), positions="learned", max_positions=288
)
_LONGFORMER_2048 = replace(_LONGFORMER, num_heads=16, mlp_width=4096)
_VTN_B = VtnSizes(
    num_frames=16, crop_px=224, backbone=_IMAGE_VIT_B, temporal=_LONGFORMER, head_width=768, num_classes=400
)
_VTN_R50 = replace(_VTN_B, backbone=_IMAGE_R50, temporal=_LONGFORMER_2048, head_width=2048)

_VTN = {
    "vtn_vit_b_k400": _VTN_B,
    "vtn_vit_b_k400_as_coded": _VTN_B,
    "vtn_vit_b_1_layer_k400": replace(_VTN_B, temporal=replace(_LONGFORMER, attention_window=(18,))),
    "vtn_deit_b_k400": _VTN_B,
    "vtn_deit_b_distilled_k400": replace(_VTN_B, backbone=replace(_IMAGE_VIT_B, is_distilled=True)),
    # Only an MLP of 3072 beside a width of 192 gives the paper's 10 M parameters.
    "vtn_deit_ti_k400": replace(
        _VTN_B, backbone=replace(_IMAGE_VIT_B, width=192, num_heads=3, mlp_width=768), head_width=192
    ),
    "vtn_r50_k400": _VTN_R50,
    "vtn_r101_k400": replace(_VTN_R50, backbone=replace(_IMAGE_R50, num_blocks=(3, 4, 23, 3))),
}

_VIDTR = VidtrSizes(
    num_frames=8,
    patch_frames=1,
    crop_px=224,
    patch_px=16,
    width=768,
    num_layers=12,
    num_heads=12,
    mlp_width=3072,
    activation="relu",
    num_classes=400,
)


def _compact(num_frames: int, pool_layers: tuple[int, ...], dropped_times: tuple[int, ...]) -> CompactVidtrSizes:
    same = {field.name: getattr(_VIDTR, field.name) for field in fields(_VIDTR)} | {"num_frames": num_frames}
    return CompactVidtrSizes(**same, pool_layers=pool_layers, dropped_times=dropped_times)


_COMPACT = {
    "cvidtr_s_k400": _compact(8, (1, 3, 5), (2, 2, 2)),
    "cvidtr_s_k400@pools_of_the_paper": _compact(8, (1, 2, 4), (2, 2, 2)),
    "cvidtr_m_k400": _compact(16, (1, 2, 4), (8, 4, 2)),
}
_SEPARABLE = {
    "vidtr_s_k400": _VIDTR,
    "vidtr_m_k400": replace(_VIDTR, num_frames=16),
    "vidtr_l_k400": replace(_VIDTR, num_frames=32),
}

_PLAIN, _INFLATED = (1, 1), (3, 1)
_I3D = I3dSizes(
    num_frames=8,
    crop_px=224,
    stem_width=64,
    stem_kernel_frames=1,
    stages=(
        StageSizes(inner_width=64, outer_width=256, kernel_frames=(_PLAIN,) * 3),
        StageSizes(inner_width=128, outer_width=512, kernel_frames=(_PLAIN,) * 4),
        StageSizes(inner_width=256, outer_width=1024, kernel_frames=(_INFLATED,) * 6),
        StageSizes(inner_width=512, outer_width=2048, kernel_frames=(_INFLATED,) * 3),
    ),
    num_classes=400,
)

FULL_SIZE: dict[str, Callable[[], VideoNetwork]] = {
    **{name: partial(vivit.build, sizes) for name, sizes in _VIVIT.items()},
    **{name: partial(Vtn, sizes) for name, sizes in _VTN.items()},
    **{name: partial(SeparableVidtr, sizes) for name, sizes in _SEPARABLE.items()},
    **{name: partial(CompactVidtr, sizes) for name, sizes in _COMPACT.items()},
    "vidtr_vanilla_k400": partial(JointVidtr, _VIDTR),
    "i3d_r50_8x8_k400": partial(SlowResnet, _I3D),
    "i3d_r50_8x8_k400@32_frames": partial(SlowResnet, replace(_I3D, num_frames=32)),
}
"""Builds each; see `tubelet.export.count.on_meta`."""
