"""Small ViViTs, one of every kind, with random weights of which none is trivial."""

from __future__ import annotations

import runpy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tiny import MAKER

from tubelet.models.vivit import FactorisedEncoder, JointVivit, build
from tubelet.models.vivit_sizes import (
    EncoderSizes,
    FactorisedDotProductSizes,
    FactorisedEncoderSizes,
    FactorisedSelfAttentionSizes,
    JointSizes,
    TubeletSizes,
    UniformFrameSizes,
)
from tubelet.spec.network import VivitNetwork

NUM_FRAMES, CROP_PX, WIDTH, CLASSES = 6, 24, 12, 5
TUBELETS = TubeletSizes(kind="tubelet", frames=2, patch_px=8)
UNIFORM = UniformFrameSizes(kind="uniform_frames", frames=2, patch_px=8)
ENCODER = EncoderSizes(num_layers=2, num_heads=2, mlp_width=20)

MODEL_1 = JointSizes(
    num_frames=NUM_FRAMES,
    crop_px=CROP_PX,
    embedding=TUBELETS,
    width=WIDTH,
    encoder=ENCODER,
    classifier="token",
    representation_width=None,
    num_classes=CLASSES,
)
_COMMON = {field: getattr(MODEL_1, field) for field in MODEL_1.__dataclass_fields__} | {"classifier": "gap"}
MODEL_2 = FactorisedEncoderSizes(
    num_frames=NUM_FRAMES,
    tubelet_frames=2,
    crop_px=CROP_PX,
    patch_px=8,
    width=WIDTH,
    spatial=ENCODER,
    temporal=EncoderSizes(num_layers=1, num_heads=3, mlp_width=16),
    classifier="token",
    representation_width=None,
    num_classes=CLASSES,
)
MODEL_3 = FactorisedSelfAttentionSizes(**_COMMON, attention_order="time_space")
MODEL_4 = FactorisedDotProductSizes(**_COMMON)

VIVITS: dict[str, tuple[Any, JointSizes | FactorisedEncoderSizes]] = {
    "model 1": ("spatio_temporal", MODEL_1),
    "model 1, uniform frames": ("spatio_temporal", replace(MODEL_1, embedding=UNIFORM)),
    "model 1, gsp, representation": (
        "spatio_temporal",
        replace(MODEL_1, classifier="gsp", representation_width=7),
    ),
    "model 2": ("factorised_encoder", MODEL_2),
    "model 2, gmp, representation": (
        "factorised_encoder",
        replace(MODEL_2, classifier="gmp", representation_width=7),
    ),
    "average pool": ("average_pool", replace(MODEL_2, temporal=None)),
    "average pool, gap": ("average_pool", replace(MODEL_2, temporal=None, classifier="gap")),
    "model 3, time first": ("factorised_self_attention", MODEL_3),
    "model 3, space first, gmp": (
        "factorised_self_attention",
        replace(MODEL_3, attention_order="space_time", classifier="gmp"),
    ),
    "model 3, uniform frames": ("factorised_self_attention", replace(MODEL_3, embedding=UNIFORM)),
    "model 4": ("factorised_dot_product", MODEL_4),
    "model 4, uniform frames, representation": (
        "factorised_dot_product",
        replace(MODEL_4, embedding=UNIFORM, representation_width=7),
    ),
}
"""By a name for tests: variant, sizes."""


def small_vivit(kind: str, *, seed: int = 0) -> JointVivit | FactorisedEncoder:
    """The network of that kind, in eval mode."""
    model = build(VIVITS[kind][1]).eval()
    runpy.run_path(str(MAKER))["randomise"](model, np.random.RandomState(seed))
    return model


def network_of(kind: str) -> VivitNetwork:
    """What a recipe would say of it."""
    variant, sizes = VIVITS[kind]
    embedding = None if isinstance(sizes, FactorisedEncoderSizes) else sizes.embedding
    return VivitNetwork(
        family="vivit",
        variant=variant,
        classifier=sizes.classifier,
        attention_order=getattr(sizes, "attention_order", None),
        sampled_frames=embedding.frames if isinstance(embedding, UniformFrameSizes) else None,
        num_heads=None,
    )


def small_clips(batch: int = 2, *, seed: int = 0) -> torch.Tensor:
    """float32 `[B, T, S, S, 3]`."""
    shape = (batch, NUM_FRAMES, CROP_PX, CROP_PX, 3)
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))
