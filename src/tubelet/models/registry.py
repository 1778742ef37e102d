"""Which class computes which network of a recipe, and which sizes it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tubelet.models.i3d import I3dSizes, SlowResnet
from tubelet.models.network import VideoNetwork
from tubelet.models.vidtr import CompactVidtr, CompactVidtrSizes, JointVidtr, SeparableVidtr, VidtrSizes
from tubelet.models.vivit import FactorisedDotProduct, FactorisedEncoder, FactorisedSelfAttention, SpatioTemporal
from tubelet.models.vivit_sizes import (
    FactorisedDotProductSizes,
    FactorisedEncoderSizes,
    FactorisedSelfAttentionSizes,
    JointSizes,
)
from tubelet.models.vtn import Vtn, VtnSizes
from tubelet.spec.network import Network

__all__ = ["build", "network_class", "sizes_class"]

_CLASSES: dict[tuple[str, str], tuple[type[Any], type[VideoNetwork]]] = {
    ("vivit", "spatio_temporal"): (JointSizes, SpatioTemporal),
    ("vivit", "factorised_encoder"): (FactorisedEncoderSizes, FactorisedEncoder),
    ("vivit", "average_pool"): (FactorisedEncoderSizes, FactorisedEncoder),
    ("vivit", "factorised_self_attention"): (FactorisedSelfAttentionSizes, FactorisedSelfAttention),
    ("vivit", "factorised_dot_product"): (FactorisedDotProductSizes, FactorisedDotProduct),
    ("vtn", "vit"): (VtnSizes, Vtn),
    ("vtn", "vit_distilled"): (VtnSizes, Vtn),
    ("vtn", "resnet"): (VtnSizes, Vtn),
    ("vidtr", "separable"): (VidtrSizes, SeparableVidtr),
    ("vidtr", "joint"): (VidtrSizes, JointVidtr),
    ("vidtr", "compact"): (CompactVidtrSizes, CompactVidtr),
    ("i3d", "slow_resnet"): (I3dSizes, SlowResnet),
}
"""By family and variant."""


def sizes_class(network: Network) -> type[Any]:
    """The dataclass that holds the sizes of a network of this family and variant."""
    return _CLASSES[network.family, network.variant][0]


def network_class(network: Network) -> type[VideoNetwork]:
    """The class of a network of this family and variant."""
    return _CLASSES[network.family, network.variant][1]


def build(network: Network, sizes: Any, *, dropout: float = 0.0) -> VideoNetwork:
    """Builds a network without weights; on the meta device where that is torch's device now.

    Args:
        network: which one.
        sizes: an object of its `sizes_class`.
        dropout: of training.

    Raises:
        ValueError: the sizes fit no network, or are those of another one.
    """
    expected = sizes_class(network)
    make: Callable[..., VideoNetwork] = network_class(network)
    if type(sizes) is not expected:
        raise ValueError(f"{network.family} {network.variant} takes {expected.__name__}, got {type(sizes).__name__}")
    return make(sizes, dropout=dropout)
