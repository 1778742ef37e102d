"""Networks to measure on a GPU: at full size with random weights, or tiny ones of the same kind for a self-check.

Nothing here needs more than torch and NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tubelet.export.count import count_run, on_meta
from tubelet.export.papers import FULL_SIZE
from tubelet.models.longformer import LongformerSizes
from tubelet.models.network import TwoStageVideoNetwork, VideoNetwork
from tubelet.models.vidtr import CompactVidtrSizes, VidtrSizes
from tubelet.models.vit_image import VitImageSizes
from tubelet.models.vivit_sizes import EncoderSizes, FactorisedEncoderSizes, JointSizes
from tubelet.models.vtn import VtnSizes
from tubelet.spec.manifest import Contract, Geometry, Head
from tubelet.spec.recipe import Recipe

__all__ = ["CASES", "FAMILIES", "Case", "Views", "Work", "builder", "contract_for", "random_network", "work_of"]

RECIPES = Path(__file__).parents[1] / "export" / "recipes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """What one video asks of a network, no unit of it twice."""

    title: str
    num_clips: int
    """K."""
    num_crops: int
    """R."""
    num_frames: int | None = None
    """T of a clip, where it is not the network's own."""

    def units_per_clip(self, network: VideoNetwork) -> int:
        """Number n of units."""
        return (self.num_frames or network.num_frames) // network.unit_frames

    def num_units(self, network: VideoNetwork) -> int:
        """Rows of UNITS: K * n * R."""
        return self.num_clips * self.units_per_clip(network) * self.num_crops


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A network of a recipe, and what is asked of it: the views that matter most come first."""

    name: str
    title: str
    views: tuple[Views, ...]


MANY = Views(title="30 views", num_clips=10, num_crops=3)
ONE = Views(title="1 view", num_clips=1, num_crops=1)

CASES = (
    Case(name="vivit_b_16x2_fe_k400", title="ViViT-B/16x2 FE", views=(MANY, ONE)),
    Case(name="vivit_b_16x2_k400", title="ViViT-B/16x2 Model 1", views=(MANY, ONE)),
    Case(name="vivit_l_16x2_fe_k400", title="ViViT-L/16x2 FE", views=(MANY, ONE)),
    Case(
        name="vtn_vit_b_k400",
        title="VTN ViT-B",
        views=(
            Views(title="1 view of 250 frames", num_clips=1, num_crops=1, num_frames=250),
            replace(MANY, title="30 views of 16 frames"),
        ),
    ),
    Case(name="vidtr_s_k400", title="VidTr-S", views=(MANY, ONE)),
    Case(name="vidtr_l_k400", title="VidTr-L", views=(MANY, ONE)),
)
"""The most important first: a run that is cut off has measured those."""

FAMILIES = {
    "vivit_b_16x2_fe_k400": True,
    "vivit_b_16x2_k400": False,
    "vivit_b_16x2_factorised_self_attention_k400": False,
    "vivit_b_16x2_factorised_dot_product_k400": False,
    "vtn_vit_b_k400": True,
    "vidtr_s_k400": True,
    "cvidtr_s_k400": False,
    "vidtr_vanilla_k400": False,
}
"""Networks that are compared with the processor: tiny ones all of them, and whether at full size too."""

_TINY_ENCODER = EncoderSizes(num_layers=2, num_heads=2, mlp_width=64)
_TINY: dict[str, Any] = {"crop_px": 32, "width": 32, "num_frames": 8}
_TINY_BLOCKS: dict[str, Any] = {"num_layers": 3, "num_heads": 2, "mlp_width": 64}


def builder(name: str, *, tiny: bool) -> Callable[[], VideoNetwork]:
    """What builds a network of `tubelet.export.papers.FULL_SIZE`, or a tiny one of the same kind."""
    build: Any = FULL_SIZE[name]
    return (lambda: build.func(_shrink(*build.args))) if tiny else build


def _shrink(sizes: Any) -> Any:
    match sizes:
        case FactorisedEncoderSizes():
            return replace(sizes, **_TINY, spatial=_TINY_ENCODER, temporal=_TINY_ENCODER)
        case JointSizes():
            return replace(sizes, **_TINY, encoder=_TINY_ENCODER)
        case CompactVidtrSizes():
            return replace(sizes, **_TINY, **_TINY_BLOCKS, pool_layers=(0, 1), dropped_times=(2, 2))
        case VidtrSizes():
            return replace(sizes, **_TINY, **_TINY_BLOCKS)
        case VtnSizes(backbone=VitImageSizes() as backbone, temporal=LongformerSizes() as temporal):
            backbone = replace(backbone, width=32, **_TINY_BLOCKS)
            temporal = replace(temporal, num_heads=2, mlp_width=64, attention_window=(4, 4))
            return replace(sizes, crop_px=32, backbone=backbone, temporal=temporal, head_width=32)
        case _:
            raise TypeError(f"no tiny network is known for {type(sizes).__name__}")


def random_network(name: str, *, tiny: bool, device: torch.device, seed: int = 0) -> VideoNetwork:
    """A network in eval mode, float32, made on ``device``: numbers of the usual size, no bias and no norm trivial."""
    with torch.device(device):
        network = builder(name, tiny=tiny)().eval()
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                # Rows of unit gain: attention then looks somewhere, and logits differ.
                fan_in = parameter[0].numel() if parameter_name.endswith("weight") else 2500
                nn.init.normal_(parameter, std=fan_in**-0.5, generator=generator)
            else:
                scale = not parameter_name.endswith("bias")
                nn.init.normal_(parameter, mean=float(scale), std=0.02, generator=generator)
    return network


def contract_for(name: str, network: VideoNetwork) -> Contract:
    """What the recipe promises, with the sizes of ``network``; its labels are numbers."""
    plan = Recipe.load(RECIPES / f"{name}.toml")
    stages = network if isinstance(network, TwoStageVideoNetwork) else None
    geometry = Geometry(
        unit_frames=network.unit_frames,
        feature_dim=stages.feature_dim if stages else None,
        positions=bool(stages and stages.takes_positions),
        attention=bool(stages and stages.gives_attention),
        any_length=bool(stages and stages.takes_any_length),
    )
    (head,) = plan.heads
    return Contract(
        schema_version=1,
        name=plan.name,
        network=plan.network,
        geometry=geometry,
        sampler=replace(plan.sampler, num_frames=network.num_frames),
        full_video=plan.full_video,
        resize=plan.resize,
        crop=replace(plan.crop, size_px=network.crop_px),
        normalisation=plan.normalisation,
        protocols=plan.protocols,
        default_protocol=plan.default_protocol,
        aggregation=plan.aggregation,
        heads=(
            Head(name=head.name, num_classes=network.num_classes, activation=head.activation, labels_sha256="0" * 64),
        ),
        product=None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What must be done for one video, whoever does it."""

    gflop: float
    """A multiply-add is two."""
    gbytes: float
    """Pixels read once, weights read once: those of the encoder at two bytes, of the temporal stage at four."""


def work_of(name: str, views: Views, *, tiny: bool, encoder_only: bool = False) -> Work:
    """Counted on PyTorch's meta device, see `tubelet.export.count`."""
    network = on_meta(builder(name, tiny=tiny))
    side, num_units = network.crop_px, views.num_units(network)
    units = torch.empty(1, network.unit_frames, side, side, 3, device="meta")
    weights = {name: parameter.numel() for name, parameter in network.named_parameters()}
    if isinstance(network, TwoStageVideoNetwork):
        macs = num_units * count_run(network, lambda: network.encode(units)).total
        if not encoder_only:
            macs += views.num_clips * views.num_crops * _temporal_macs(network, views.units_per_clip(network))
        late = sum(
            number for name, number in weights.items() if name.startswith(("temporal", "representation", "head"))
        )
    else:
        macs, late = num_units * count_run(network, lambda: network(units)).total, 0
    num_bytes = num_units * units.numel() + 2 * (sum(weights.values()) - late) + 4 * late
    return Work(gflop=2e-9 * macs, gbytes=1e-9 * num_bytes)


def _temporal_macs(network: TwoStageVideoNetwork, units_per_clip: int) -> int:
    features = torch.empty(1, units_per_clip, network.feature_dim, device="meta")
    positions = torch.empty(1, units_per_clip, dtype=torch.int64, device="meta")

    def classify() -> Tensor:
        return network.classify(features, positions)

    return count_run(network, classify).total
