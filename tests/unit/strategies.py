"""Hypothesis strategies: every kind of network, and contracts that hang together."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tubelet.preprocess.timeline import VideoClock
from tubelet.spec.manifest import Contract, Geometry, Head
from tubelet.spec.network import I3dNetwork, Network, VidtrNetwork, VivitNetwork, VtnNetwork
from tubelet.spec.pipeline import Crop, FullVideo, Normalisation, Resize, Sampler
from tubelet.spec.protocol import ANY_CLIPS, ANY_FULL

sizes = st.integers(1, 64)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-6, 1e6)
rates = st.floats(1e-6, 1e3)
channels = st.tuples(positive, positive, positive)
names = st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True)


def one_of_names(choices: list[str]) -> st.SearchStrategy[Any]:
    """One of a field's literals."""
    return st.sampled_from(choices)


NO_TOKEN = ("factorised_self_attention", "factorised_dot_product")


@st.composite
def vivits(draw: st.DrawFn) -> VivitNetwork:
    variant = draw(one_of_names(["spatio_temporal", "factorised_encoder", "average_pool", *NO_TOKEN]))
    pooled, has_one_encoder = ["gap", "gmp", "gsp"], variant not in ("factorised_encoder", "average_pool")
    return VivitNetwork(
        family="vivit",
        variant=variant,
        classifier=draw(one_of_names(pooled if variant in NO_TOKEN else ["token", *pooled])),
        attention_order=draw(one_of_names(["time_space", "space_time"])) if variant == NO_TOKEN[0] else None,
        sampled_frames=draw(st.none() | sizes) if has_one_encoder else None,
        num_heads=draw(st.none() | sizes),
    )


@st.composite
def vtns(draw: st.DrawFn) -> VtnNetwork:
    variant = draw(one_of_names(["vit", "vit_distilled", "resnet"]))
    positions = draw(one_of_names(["learned", "sinusoidal", "none"]))
    windows = draw(st.lists(st.integers(1, 32), min_size=1, max_size=4))
    return VtnNetwork(
        family="vtn",
        variant=variant,
        backbone_heads=None if variant == "resnet" else draw(sizes),
        temporal_heads=draw(sizes),
        attention_window=tuple(2 * half for half in windows),
        positions=positions,
        max_positions=draw(st.integers(3, 512)) if positions == "sinusoidal" else None,
    )


@st.composite
def vidtrs(draw: st.DrawFn) -> VidtrNetwork:
    variant = draw(one_of_names(["separable", "joint", "compact"]))
    pools = sorted(draw(st.sets(st.integers(0, 11), min_size=1, max_size=4))) if variant == "compact" else []
    return VidtrNetwork(
        family="vidtr",
        variant=variant,
        num_heads=draw(sizes),
        activation=draw(one_of_names(["relu", "gelu"])),
        pool_layers=tuple(pools),
        dropped_frames=tuple(draw(sizes) for _ in pools),
    )


networks: st.SearchStrategy[Network] = st.one_of(
    vivits(), vtns(), vidtrs(), st.just(I3dNetwork(family="i3d", variant="slow_resnet"))
)

geometries = st.one_of(
    st.builds(
        Geometry,
        unit_frames=sizes, feature_dim=sizes,
        positions=st.booleans(), attention=st.booleans(), any_length=st.booleans(),
    ),
    st.builds(
        Geometry,
        unit_frames=sizes, feature_dim=st.none(),
        positions=st.just(False), attention=st.just(False), any_length=st.just(False),
    ),
)  # fmt: skip


@st.composite
def samplers(draw: st.DrawFn, num_frames: int) -> Sampler:
    kind = draw(one_of_names(["scenic", "pyslowfast", "gluonmm", "gluoncv_i3d"]))
    return Sampler(
        kind=kind,
        num_frames=num_frames,
        stride=draw(sizes),
        target_fps=draw(rates if kind == "pyslowfast" else st.none() | rates),
        short_video="wrap" if kind == "scenic" else "repeat_last",
    )


@st.composite
def resizes(draw: st.DrawFn, crop_px: int) -> Resize:
    kind = draw(one_of_names(["scenic", "pyslowfast", "gluonmm"]))
    return Resize(
        kind=kind,
        short_side_px=crop_px + draw(st.integers(0, 64)),
        short_side_three_crops_px=crop_px + draw(st.integers(0, 64)),
        kernel="bilinear",
        antialias=False,
        on="uint8_truncated" if kind == "scenic" else "uint8_rounded",
    )


@st.composite
def head_lists(draw: st.DrawFn) -> tuple[tuple[Head, ...], str | None]:
    """Heads, and the name of their product or None."""
    head = st.builds(
        Head, name=names, num_classes=sizes, activation=one_of_names(["softmax", "sigmoid"]), labels_sha256=st.text()
    )
    heads = tuple(draw(st.lists(head, min_size=1, max_size=3)))
    may_multiply = len(heads) > 1 and all(each.activation == "softmax" for each in heads)
    return heads, draw(st.none() | names.filter(lambda name: name != "none")) if may_multiply else None


@st.composite
def protocol_lists(draw: st.DrawFn, geometry: Geometry) -> tuple[list[str], str, FullVideo | None]:
    """Protocols, one of them by default, and what ``full`` means where there is one like it."""
    protocols = draw(st.lists(one_of_names(["1x1", "4x3", "10x3", "tsn", ANY_CLIPS]), min_size=1, unique=True))
    lengths = st.integers(1, 64).map(lambda count: count * geometry.unit_frames)
    full = None
    if geometry.any_length and draw(st.booleans()):
        full = FullVideo(num_frames=draw(lengths), span_s=draw(st.none() | positive))
        named = ["full", f"full{draw(lengths)}", ANY_FULL]
        protocols += draw(st.lists(one_of_names(named), min_size=1, unique=True))
    meant = {
        ANY_CLIPS: f"{draw(st.integers(1, 9999))}x{draw(one_of_names(['1', '3']))}",
        ANY_FULL: f"full{draw(lengths)}",
    }
    default = draw(one_of_names(protocols))
    return protocols, meant.get(default, default), full


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    geometry, crop_px = draw(geometries), draw(st.integers(1, 512))
    protocols, default, full = draw(protocol_lists(geometry))
    heads, product = draw(head_lists())
    num_frames = geometry.unit_frames * (1 if geometry.feature_dim is None else draw(sizes))
    return Contract(
        schema_version=1,
        name=draw(names),
        network=draw(networks),
        geometry=geometry,
        sampler=draw(samplers(num_frames)),
        full_video=full,
        resize=draw(resizes(crop_px)),
        crop=Crop(kind=draw(one_of_names(["scenic", "pyslowfast", "gluonmm", "gluoncv_i3d"])), size_px=crop_px),
        normalisation=Normalisation(scale=draw(positive), mean=draw(channels), std=draw(channels)),
        protocols=tuple(protocols),
        default_protocol=default,
        aggregation=draw(one_of_names(["mean_logits", "sum_logits", "mean_probabilities"])),
        heads=heads,
        product=product,
    )


@st.composite
def video_clocks(draw: st.DrawFn) -> VideoClock:
    """Clocks of 1 to 300 frames at a rate that may vary, with and without a duration in the header."""
    gaps = np.array(draw(st.lists(st.integers(1, 200), min_size=1, max_size=300)))
    ticks = np.concatenate(([0], np.cumsum(gaps)))
    interval_s = float(gaps[-1]) / 1000
    return VideoClock(
        times=ticks[:-1] / 1000,
        interval_s=interval_s,
        fps=draw(st.sampled_from([10.0, 25.0, 29.97, 60.0])),
        ticks=ticks if draw(st.booleans()) else None,
    )


protocol_names = st.one_of(
    st.builds("{}x{}".format, st.integers(1, 40), st.sampled_from([1, 3])),
    st.integers(1, 300).map("full{}".format),
    st.sampled_from(["tsn", "full"]),
)
"""Of requests; some models have no whole video."""
