"""The demo models: how large they are, where they start, how long they learn. Each is below 2 MB in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tubelet.demo.flow import FlowHint
from tubelet.demo.initialise import initialise
from tubelet.demo.motion import LABELS
from tubelet.demo.start_vidtr import initialise_vidtr, vidtr_hint
from tubelet.demo.start_vtn import initialise_vtn, vtn_hint
from tubelet.demo.training import Schedule
from tubelet.models.longformer import LongformerSizes
from tubelet.models.network import VideoNetwork
from tubelet.models.vidtr import CompactVidtr, CompactVidtrSizes, SeparableVidtr, VidtrSizes
from tubelet.models.vit_image import VitImageSizes
from tubelet.models.vivit import FactorisedEncoder
from tubelet.models.vivit_sizes import EncoderSizes, FactorisedEncoderSizes
from tubelet.models.vtn import Vtn, VtnSizes
from tubelet.spec.network import VidtrNetwork, VtnNetwork
from tubelet.spec.recipe import Recipe

__all__ = ["DEMO_MODELS", "DemoModel", "motion_sizes", "vtn_sizes"]

SEED = 0
WIDTH, MLP_WIDTH = 96, 192
TIMES = 96
"""Frames of a video that VTN's table tells apart: all that the longest clip has, and some more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoModel:
    """One line of the table."""

    recipe: str
    """Name of its file in ``export/recipes``."""
    start: Callable[[Recipe], tuple[VideoNetwork, FlowHint | None]]
    """The network before its first step, and what it is asked besides while it learns."""
    schedule: Schedule


def motion_sizes(recipe: Recipe) -> FactorisedEncoderSizes:
    """Sizes of the ViViT demo; clip and crop are the recipe's."""
    return FactorisedEncoderSizes(
        num_frames=recipe.sampler.num_frames,
        tubelet_frames=4,
        crop_px=recipe.crop.size_px,
        patch_px=8,
        width=WIDTH,
        spatial=EncoderSizes(num_layers=3, num_heads=4, mlp_width=MLP_WIDTH),
        temporal=EncoderSizes(num_layers=2, num_heads=4, mlp_width=MLP_WIDTH),
        classifier="token",
        representation_width=None,
        num_classes=len(LABELS),
    )


def vtn_sizes(recipe: Recipe) -> VtnSizes:
    """Sizes of the VTN demo; heads and windows are the recipe's too."""
    network = recipe.network
    if not isinstance(network, VtnNetwork) or network.backbone_heads is None:
        raise TypeError("the demo's recipe must describe a VTN with a ViT backbone")
    return VtnSizes(
        num_frames=recipe.sampler.num_frames,
        crop_px=recipe.crop.size_px,
        backbone=VitImageSizes(
            kind="vit",
            patch_px=16,
            width=WIDTH,
            num_layers=2,
            num_heads=network.backbone_heads,
            mlp_width=MLP_WIDTH,
            is_distilled=False,
        ),
        temporal=LongformerSizes(
            num_heads=network.temporal_heads,
            mlp_width=MLP_WIDTH,
            attention_window=network.attention_window,
            positions=network.positions,
            max_positions=TIMES + 2,
        ),
        head_width=WIDTH,
        num_classes=len(LABELS),
    )


def _vidtr_sizes(recipe: Recipe, network: VidtrNetwork, *, num_layers: int) -> dict[str, Any]:
    return {
        "num_frames": recipe.sampler.num_frames,
        "patch_frames": 1,
        "crop_px": recipe.crop.size_px,
        "patch_px": 12,
        "width": WIDTH,
        "num_layers": num_layers,
        "num_heads": network.num_heads,
        "mlp_width": MLP_WIDTH,
        "activation": network.activation,
        "num_classes": len(LABELS),
    }


def _vidtr_network(recipe: Recipe) -> VidtrNetwork:
    if not isinstance(recipe.network, VidtrNetwork):
        raise TypeError("the demo's recipe must describe a VidTr")
    return recipe.network


def _vivit(recipe: Recipe) -> tuple[VideoNetwork, None]:
    model = FactorisedEncoder(motion_sizes(recipe))
    initialise(model, seed=SEED)
    return model, None


def _vtn(recipe: Recipe) -> tuple[VideoNetwork, FlowHint]:
    model = Vtn(vtn_sizes(recipe))
    initialise_vtn(model, seed=SEED)
    return model, vtn_hint(model)


def _vidtr(recipe: Recipe) -> tuple[VideoNetwork, FlowHint]:
    sizes = _vidtr_sizes(recipe, _vidtr_network(recipe), num_layers=4)
    model = SeparableVidtr(VidtrSizes(**sizes))
    initialise_vidtr(model, seed=SEED)
    return model, vidtr_hint(model)


def _cvidtr(recipe: Recipe) -> tuple[VideoNetwork, FlowHint]:
    network = _vidtr_network(recipe)
    sizes = _vidtr_sizes(recipe, network, num_layers=5)
    model = CompactVidtr(
        CompactVidtrSizes(**sizes, pool_layers=network.pool_layers, dropped_times=network.dropped_frames)
    )
    initialise_vidtr(model, seed=SEED)
    return model, vidtr_hint(model)


_SHORT = Schedule(steps=1800, bfloat16=True)

DEMO_MODELS = {
    "vivit": DemoModel(recipe="motion.toml", start=_vivit, schedule=Schedule(steps=2500)),
    "vtn": DemoModel(recipe="motion_vtn.toml", start=_vtn, schedule=Schedule(steps=1400, bfloat16=True)),
    "vidtr": DemoModel(recipe="motion_vidtr.toml", start=_vidtr, schedule=_SHORT),
    "cvidtr": DemoModel(recipe="motion_cvidtr.toml", start=_cvidtr, schedule=_SHORT),
}
"""By the name that ``python -m tubelet.demo.train`` takes."""
