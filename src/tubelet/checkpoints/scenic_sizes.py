"""Sizes of a ViViT from the shapes in a scenic checkpoint, held against what the recipe says."""

from __future__ import annotations

from typing import Any

from tubelet.checkpoints.mapping import Parameters, listed, num_blocks, shape_of
from tubelet.models.vivit_sizes import (
    EncoderSizes,
    FactorisedDotProductSizes,
    FactorisedEncoderSizes,
    FactorisedSelfAttentionSizes,
    JointSizes,
    TubeletSizes,
    UniformFrameSizes,
)
from tubelet.spec.errors import RecipeError
from tubelet.spec.network import VivitNetwork

__all__ = ["CLASS_TOKENS", "JOINT", "SPATIAL", "TEMPORAL", "sizes_of", "title_of"]

JOINT, SPATIAL, TEMPORAL = "Transformer", "SpatialTransformer", "TemporalTransformer"
"""scenic's names of the encoders: of Models 1, 3 and 4, and the two of Model 2."""

CLASS_TOKENS = {JOINT: "cls", SPATIAL: "cls_SpatialTransformer", TEMPORAL: "cls_TemporalTransformer"}

_TITLES = {
    "spatio_temporal": "ViViT Model 1 (spatio_temporal)",
    "factorised_encoder": "ViViT Model 2 (factorised_encoder)",
    "average_pool": "ViViT Model 2 without its temporal transformer (average_pool)",
    "factorised_self_attention": "ViViT Model 3 (factorised_self_attention)",
    "factorised_dot_product": "ViViT Model 4 (factorised_dot_product)",
}


def title_of(network: VivitNetwork) -> str:
    """How messages call a network."""
    return _TITLES[network.variant]


def sizes_of(
    parameters: Parameters, network: VivitNetwork, *, num_frames: int, crop_px: int
) -> JointSizes | FactorisedEncoderSizes:
    """Reads the sizes of a ViViT from its parameters' shapes; blocks are counted.

    Args:
        parameters: by scenic's names, joined with '/'.
        network: which model it is; what it says of heads and class token must agree with the shapes.
        num_frames: T, frames of a clip; together with ``crop_px`` it must give as many tokens as there are positions.
        crop_px: S, side of a frame.

    Raises:
        RecipeError: ``bad_checkpoint``: another model, or shapes that do not fit clips of this size.
    """
    _check_variant(parameters, network)
    if network.variant in ("factorised_encoder", "average_pool"):
        return _factorised_encoder_sizes(parameters, network, num_frames, crop_px)
    return _joint_sizes(parameters, network, num_frames, crop_px)


def _joint_sizes(parameters: Parameters, network: VivitNetwork, num_frames: int, crop_px: int) -> JointSizes:
    num_tokens = _num_tokens(parameters, JOINT, network)
    frames, patch_px, width = _kernel(parameters, title_of(network))
    if frames is not None and network.sampled_frames is not None:
        raise _bad(f"the recipe says sampled_frames {network.sampled_frames}; embedding/kernel has 5 axes: tubelets")
    embedding = (
        _uniform(network, crop_px, patch_px=patch_px)
        if frames is None
        else TubeletSizes(kind="tubelet", frames=frames, patch_px=patch_px)
    )
    n, num_places = embedding.grid(num_frames, crop_px)
    if n * num_places != num_tokens:
        raise _unfit(num_tokens, num_frames, crop_px, f"have {n} x {num_places} {_pieces(network, frames, patch_px)}")
    sizes: dict[str, Any] = {
        "num_frames": num_frames,
        "crop_px": crop_px,
        "embedding": embedding,
        "width": width,
        "encoder": _encoder(parameters, JOINT, network, width),
        "classifier": network.classifier,
        "representation_width": _representation_width(parameters),
        "num_classes": shape_of(parameters, "output_projection/kernel", 2, what=title_of(network))[1],
    }
    match network.variant:
        case "factorised_self_attention":
            return FactorisedSelfAttentionSizes(**sizes | {"attention_order": network.attention_order})
        case "factorised_dot_product":
            if sizes["encoder"].num_heads % 2:
                raise _bad(f"{title_of(network)} has an even number of heads, got {sizes['encoder'].num_heads}")
            return FactorisedDotProductSizes(**sizes)
        case _:
            return JointSizes(**sizes)


def _factorised_encoder_sizes(
    parameters: Parameters, network: VivitNetwork, num_frames: int, crop_px: int
) -> FactorisedEncoderSizes:
    what = title_of(network)
    frames, patch_px, width = _kernel(parameters, what)
    if frames is None:
        raise _bad(
            "embedding/kernel has 4 axes, so frames are sampled uniformly; a factorised encoder is served by units of "
            "successive frames, and needs tubelets (5 axes)"
        )
    num_patches = _num_tokens(parameters, SPATIAL, network)
    if (crop_px // patch_px) ** 2 != num_patches:
        raise _unfit(num_patches, num_frames, crop_px, f"have {(crop_px // patch_px) ** 2} patches of {patch_px} px")
    if num_frames % frames:
        raise _bad(f"num_frames must be a multiple of a tubelet's {frames} frames, got {num_frames}")
    temporal = None
    if network.variant == "factorised_encoder":
        num_tubelets = _num_tokens(parameters, TEMPORAL, network)
        if num_frames // frames != num_tubelets:
            raise _unfit(num_tubelets, num_frames, crop_px, f"have {num_frames // frames} tubelets of {frames} frames")
        temporal = _encoder(parameters, TEMPORAL, network, width)
    return FactorisedEncoderSizes(
        num_frames=num_frames,
        tubelet_frames=frames,
        crop_px=crop_px,
        patch_px=patch_px,
        width=width,
        spatial=_encoder(parameters, SPATIAL, network, width),
        temporal=temporal,
        classifier=network.classifier,
        representation_width=_representation_width(parameters),
        num_classes=shape_of(parameters, "output_projection/kernel", 2, what=what)[1],
    )


def _check_variant(parameters: Parameters, network: VivitNetwork) -> None:
    tops = list(dict.fromkeys(name.partition("/")[0] for name in parameters))
    if SPATIAL in tops:
        found = ["factorised_encoder" if TEMPORAL in tops else "average_pool"]
    elif JOINT not in tops:
        raise _bad(f"a ViViT has {JOINT} or {SPATIAL}; this checkpoint has only {listed(tops)} at its top")
    elif any("/MultiHeadDotProductAttention_time/" in name for name in parameters):
        found = ["factorised_self_attention"]
    else:  # Model 4 has the tensors of Model 1 without a class token
        found = ["spatio_temporal", "factorised_dot_product"][: 1 if "cls" in tops else 2]
    if network.variant not in found:
        titles = " or ".join(_TITLES[variant] for variant in found)
        raise _bad(f"the recipe says {title_of(network)}; this checkpoint looks like {titles}")


def _num_tokens(parameters: Parameters, encoder: str, network: VivitNetwork) -> int:
    """Rows of a position table, without that of the class token, whose presence must agree with the recipe."""
    token = CLASS_TOKENS[encoder]
    if (token in parameters) != (network.classifier == "token"):
        has = "has" if token in parameters else "lacks"
        raise _bad(f"the recipe says classifier {network.classifier}; this checkpoint {has} a class token ({token})")
    table = f"{encoder}/posembed_input/pos_embedding"
    num_tokens = shape_of(parameters, table, 3, what=title_of(network))[1] - (token in parameters)
    if num_tokens < 1:
        raise _bad(f"{table} must have rows for more than a class token, it has 1")
    return num_tokens


def _kernel(parameters: Parameters, what: str) -> tuple[int | None, int, int]:
    """Frames of a tubelet (None: patches of single frames), side of a patch, width."""
    rank = 4 if "embedding/kernel" in parameters and parameters["embedding/kernel"].dim() == 4 else 5
    *time, height, patch_px, _, width = shape_of(parameters, "embedding/kernel", rank, what=what)
    if height != patch_px:
        raise _bad(f"embedding/kernel must have square patches, got {height}x{patch_px}")
    return (time[0] if time else None), patch_px, width


def _uniform(network: VivitNetwork, crop_px: int, *, patch_px: int) -> UniformFrameSizes:
    if network.sampled_frames is None:
        raise _bad(
            "embedding/kernel has 4 axes, so a few frames of the clip are sampled: network.sampled_frames must say how "
            "many (n_sampled_frames of scenic's config)"
        )
    if crop_px % patch_px:
        raise _bad(
            f"frames that are sampled uniformly must be a whole number of patches: {crop_px} px by {patch_px} px"
        )
    return UniformFrameSizes(kind="uniform_frames", frames=network.sampled_frames, patch_px=patch_px)


def _encoder(parameters: Parameters, encoder: str, network: VivitNetwork, width: int) -> EncoderSizes:
    what = title_of(network)
    axis, mlp = ("space", "MlpBlock") if network.variant == "factorised_self_attention" else ("0", "MlpBlock_0")
    first = f"{encoder}/encoderblock_0"
    query = f"{first}/MultiHeadDotProductAttention_{axis}/query/kernel"
    num_heads = shape_of(parameters, query, 3, what=what)[1]
    if width % num_heads:
        raise _bad(f"width {width} must be a multiple of the heads, got {num_heads} in {query}")
    if network.num_heads not in (None, num_heads):
        raise _bad(f"the recipe says num_heads {network.num_heads}; {query} has {num_heads}")
    return EncoderSizes(
        num_layers=num_blocks(parameters, f"{encoder}/encoderblock_"),
        num_heads=num_heads,
        mlp_width=shape_of(parameters, f"{first}/{mlp}/Dense_0/kernel", 2, what=what)[1],
    )


def _representation_width(parameters: Parameters) -> int | None:
    if "pre_logits/kernel" not in parameters:
        return None
    return shape_of(parameters, "pre_logits/kernel", 2, what="a representation layer")[1]


def _pieces(network: VivitNetwork, frames: int | None, patch_px: int) -> str:
    if frames is None:
        return f"patches of {patch_px} px (sampled_frames {network.sampled_frames})"
    return f"tubelets of {frames}x{patch_px}x{patch_px}"


def _unfit(num_tokens: int, num_frames: int, crop_px: int, but: str) -> RecipeError:
    return _bad(
        f"the checkpoint has positions for {num_tokens} tokens; clips of {num_frames} frames (sampler.num_frames) of "
        f"{crop_px} px (crop.size_px) {but}"
    )


def _bad(message: str) -> RecipeError:
    return RecipeError("bad_checkpoint", message)
