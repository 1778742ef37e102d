"""Small VTNs with random weights of which none is trivial, and their ``.pyth`` files as bomri/SlowFast writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tubelet.checkpoints.mapping import from_state
from tubelet.checkpoints.slowfast import rows
from tubelet.models.longformer import LongformerSizes
from tubelet.models.resnet import ResnetImageSizes
from tubelet.models.vit_image import VitImageSizes
from tubelet.models.vtn import Vtn, VtnSizes
from tubelet.spec.network import VtnNetwork

CROP_PX = 24

VIT = VitImageSizes(kind="vit", patch_px=8, width=24, num_layers=2, num_heads=3, mlp_width=40, is_distilled=False)
RESNET = ResnetImageSizes(kind="resnet", stem_width=5, widths=(3, 4, 6), num_blocks=(2, 1, 3))
LONGFORMER = LongformerSizes(
    num_heads=4, mlp_width=20, attention_window=(4, 10, 6), positions="learned", max_positions=30
)
PLAIN = VtnSizes(num_frames=16, crop_px=CROP_PX, backbone=VIT, temporal=LONGFORMER, head_width=18, num_classes=5)
SIZES = {
    "vit": PLAIN,
    "vit, one layer": replace(PLAIN, temporal=replace(LONGFORMER, attention_window=(8,))),
    "vit_distilled, sinusoidal": replace(
        PLAIN,
        backbone=replace(VIT, is_distilled=True),
        temporal=replace(LONGFORMER, attention_window=(4, 10), positions="sinusoidal", max_positions=9),
    ),
    "resnet, no positions": replace(
        PLAIN,
        backbone=RESNET,
        temporal=replace(LONGFORMER, attention_window=(10, 4), positions="none", max_positions=None),
    ),
}


def small_vtn(kind: str, *, seed: int = 0) -> Vtn:
    """The network of that kind, in eval mode."""
    return randomised(Vtn(SIZES[kind]).eval(), seed=seed)


def randomised(model: Vtn, *, seed: int = 0) -> Vtn:
    """Sets each tensor of the state dict to noise; scales and variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        is_scale = name.endswith("weight") and ("norm" in name or "bn" in name)
        if is_scale or name.endswith("running_var"):
            tensor.copy_(0.7 + 0.5 * noise.abs())
        else:
            tensor.copy_(noise * (0.3 if tensor.dim() < 2 else tensor[0].numel() ** -0.5))
    return model


def network_of(kind: str) -> VtnNetwork:
    """What a recipe would say of it."""
    sizes = SIZES[kind]
    backbone = sizes.backbone
    if isinstance(backbone, VitImageSizes):
        variant: Any = "vit_distilled" if backbone.is_distilled else "vit"
        backbone_heads = backbone.num_heads
    else:
        variant, backbone_heads = "resnet", None
    return VtnNetwork(
        family="vtn",
        variant=variant,
        backbone_heads=backbone_heads,
        temporal_heads=sizes.temporal.num_heads,
        attention_window=sizes.temporal.attention_window,
        positions=sizes.temporal.positions,
        max_positions=sizes.temporal.max_positions if sizes.temporal.positions == "sinusoidal" else None,
    )


def views(n: int, *, width: int = 24, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features float32 `[V, n, D]`, and positions int64 `[V, n]` that rise and pass the end of the tables."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, n, width, generator=generator)
    return features, torch.randint(0, 9, (batch, n), generator=generator).cumsum(dim=1)


def frames(batch: int = 2, *, seed: int = 0) -> Tensor:
    """float32 `[U, 1, S, S, 3]`."""
    return torch.randn(batch, 1, CROP_PX, CROP_PX, 3, generator=torch.Generator().manual_seed(seed))


def tensors_of(model: Vtn) -> dict[str, Tensor]:
    """The tensors by the file's names, with what the file holds besides."""
    tensors = from_state(model.state_dict(), rows(model))
    table = tensors.get("temporal_encoder.embeddings.position_embeddings.weight")
    if table is not None:
        tensors["temporal_encoder.embeddings.position_ids"] = torch.arange(len(table))[None]
    for name in [name for name in tensors if name.endswith("running_mean")]:
        tensors[name.replace("running_mean", "num_batches_tracked")] = torch.tensor(7)
    return tensors


def write(path: Path, tensors: dict[str, Tensor], **besides: Any) -> Path:
    """A ``.pyth`` file."""
    torch.save(
        {"epoch": 3, "model_state": tensors, "optimizer_state": {"state": {}}, "cfg": "VTN: {}", **besides}, path
    )
    return path
