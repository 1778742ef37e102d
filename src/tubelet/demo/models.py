"""The demo models: how large they are, where they start, how long they learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tubelet.checkpoints import native, scenic
from tubelet.demo.flow import FlowHint
from tubelet.demo.initialise import initialise
from tubelet.demo.motion import LABELS
from tubelet.demo.start_vidtr import initialise_vidtr, vidtr_hint
from tubelet.demo.training import Schedule
from tubelet.models.network import VideoNetwork
from tubelet.models.vidtr import CompactVidtr, CompactVidtrSizes, SeparableVidtr, VidtrSizes
from tubelet.models.vivit import FactorisedEncoder
from tubelet.models.vivit_sizes import EncoderSizes, FactorisedEncoderSizes
from tubelet.spec.network import VidtrNetwork
from tubelet.spec.recipe import Recipe

__all__ = ["DEMO_MODELS", "DemoModel", "motion_sizes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoModel:
    """One line of the table."""

    recipe: str
    """Its file in ``export/recipes``."""
    start: Callable[[Recipe], tuple[VideoNetwork, FlowHint | None]]
    """The network before its first step, and what it is asked while it learns."""
    schedule: Schedule


def motion_sizes(recipe: Recipe) -> FactorisedEncoderSizes:
    """Sizes of the ViViT demo; clip and crop are the recipe's. Below 2 MB in float32, as all of them."""
    return FactorisedEncoderSizes(
        num_frames=recipe.sampler.num_frames,
        tubelet_frames=4,
        crop_px=recipe.crop.size_px,
        patch_px=8,
        width=96,
        spatial=EncoderSizes(num_layers=3, num_heads=4, mlp_width=192),
        temporal=EncoderSizes(num_layers=2, num_heads=4, mlp_width=192),
        classifier="token",
        representation_width=None,
        num_classes=len(LABELS),
    )


def _vivit(recipe: Recipe) -> tuple[VideoNetwork, None]:
    model = FactorisedEncoder(motion_sizes(recipe))
    initialise(model, seed=0)
    return model, None


def vidtr_sizes(recipe: Recipe) -> VidtrSizes:
    return VidtrSizes(**_vidtr_sizes(recipe, 4))


def _vidtr_sizes(recipe, num_layers):
    network = recipe.network
    return dict(
        num_frames=recipe.sampler.num_frames,
        patch_frames=1,
        crop_px=recipe.crop.size_px,
        patch_px=12,
        width=96,
        num_layers=num_layers,
        num_heads=network.num_heads,
        mlp_width=192,
        activation=network.activation,
        num_classes=len(LABELS),
    )


def cvidtr_sizes(recipe):
    return CompactVidtrSizes(
        **_vidtr_sizes(recipe, 5), pool_layers=recipe.network.pool_layers, dropped_times=recipe.network.dropped_frames
    )


def _vidtr(recipe):
    model = SeparableVidtr(vidtr_sizes(recipe))
    initialise_vidtr(model, seed=0)
    return model, vidtr_hint(model)


def _cvidtr(recipe):
    model = CompactVidtr(cvidtr_sizes(recipe))
    initialise_vidtr(model, seed=0)
    return model, vidtr_hint(model)


DEMO_MODELS = {
    "vidtr": DemoModel(
        recipe="motion_vidtr.toml", start=_vidtr, schedule=Schedule(steps=1500, peak_rate=2e-3, bfloat16=True)
    ),
    "cvidtr": DemoModel(
        recipe="motion_cvidtr.toml", start=_cvidtr, schedule=Schedule(steps=1500, peak_rate=2e-3, bfloat16=True)
    ),
}
