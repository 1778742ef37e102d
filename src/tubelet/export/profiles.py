"""For which shapes TensorRT chooses kernels: what one view takes, and what a request of many views takes.

TensorRT chooses kernels for one shape per profile, ``opt``, and runs every shape from ``least`` to ``most`` with them.
Axes are those of `tubelet.spec.tensors`.
"""

from __future__ import annotations

from tubelet.spec.errors import InvalidRequestError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.plan import PlanStep, Profile, Shapes
from tubelet.spec.protocol import ANY_CLIPS, ANY_FULL, Protocol

__all__ = ["MOST_VIEWS", "plan_profiles", "plan_steps"]

MOST_VIEWS = 30
"""Of one request, where the caller does not say: 10 clips in 3 crops, the papers' largest protocol."""

NUM_CROPS = 3
"""The most that a protocol has."""

Axis = tuple[int, int, int]
"""Sizes of one axis: least, opt, most."""

_ONE: Axis = (1, 1, 1)


def plan_steps(contract: Contract) -> tuple[PlanStep, ...]:
    """The steps of a model that are built as plans."""
    return ("encoder",) if contract.is_joint else ("encoder", "temporal")


def plan_profiles(
    contract: Contract, step: PlanStep, *, largest_batch: int, most_views: int | None = None, limits: Limits
) -> tuple[Profile, ...]:
    """The profiles of a step's plan, the one of the smallest shapes first; no two take the same shapes.

    Args:
        contract: of the model.
        step: whose plan; `plan_steps` says which there are.
        largest_batch: units in one run of the encoder for which the bundle was verified; taken in any case.
        most_views: of one request; None: `MOST_VIEWS`, or what the limits allow.
        limits: of one request; nothing larger comes.

    Raises:
        InvalidRequestError: ``bad_parameter``: more views than the limits allow.
    """
    if most_views is None:
        most_views = min(MOST_VIEWS, limits.max_views)
    if most_views > limits.max_views:
        raise InvalidRequestError(
            "bad_parameter", f"{most_views} views are asked for, max_views is {limits.max_views}; ask for fewer"
        )
    sizes = _Sizes(contract, largest_batch=largest_batch, most_views=most_views, limits=limits)
    return _distinct(_encoder_profiles(sizes) if step == "encoder" else _temporal_profiles(sizes))


class _Sizes:
    """How many of everything requests bring."""

    def __init__(self, contract: Contract, *, largest_batch: int, most_views: int, limits: Limits) -> None:
        n, default = contract.units_per_clip, Protocol.parse(contract.default_protocol)
        self.contract, self.most_clips = contract, most_views
        self.one_view = min(n, limits.max_units)
        self.longest_clip = min(contract.most_units_per_clip, limits.max_units)
        """Units of the longest clip that a protocol has a name for."""
        self.any_clip = limits.max_units if ANY_FULL in contract.protocols else self.longest_clip
        """Units of the longest clip that anyone may ask for."""
        self.most_units = min(max(n * most_views, self.longest_clip, largest_batch), limits.max_units)
        usual = self.longest_clip if default.is_full else n * default.num_views
        self.usual_units = min(usual, self.most_units)
        """Of a request that names no protocol."""
        self.clips = _clips_by_crops(default, contract, most_views)
        self.clips_units = min(n * self.clips.num_views, self.most_units)


def _clips_by_crops(default: Protocol, contract: Contract, most_views: int) -> Protocol:
    """The usual request for the sampler's clips: the default, or the largest where that is the whole video."""
    if not default.is_full and default.num_views <= most_views:
        return default
    named = [Protocol.parse(name) for name in contract.protocols if name not in (ANY_CLIPS, ANY_FULL)]
    fitting = [protocol for protocol in named if not protocol.is_full and protocol.num_views <= most_views]
    return max(fitting, key=lambda protocol: protocol.num_views, default=Protocol.parse("1x1"))


def _encoder_profiles(sizes: _Sizes) -> list[Profile]:
    """Of UNITS ``[u, t, S, S, 3]``: units of one view, and of the protocol that callers get who name none."""
    one, shape = sizes.one_view, sizes.contract.unit_shape

    def profile(name: str, *, opt: int, most: int) -> Profile:
        batches = Shapes(least=(1, *shape), opt=(opt, *shape), most=(most, *shape))
        return Profile(name=name, inputs={"UNITS": batches})

    return [
        profile("one view", opt=one, most=one),
        profile("many views", opt=sizes.usual_units, most=sizes.most_units),
    ]


def _temporal_profiles(sizes: _Sizes) -> list[Profile]:
    """Of FEATURES ``[x, D]``, CLIP_UNITS and CLIP_POSITIONS ``[K, n]``, CROPS ``[R, 2]``.

    Where clips may have any length, a third profile has one clip of it: many of the longest at once would take memory
    that no request needs.
    """
    any_length, n = sizes.contract.geometry.any_length, sizes.contract.units_per_clip
    # Who sends features sends as many views of as many units as the limits allow.
    most = max(sizes.most_units, sizes.any_clip) if any_length else sizes.most_units
    profiles = [
        _temporal(
            sizes, "one view", units=(1, sizes.one_view, sizes.one_view), clips=_ONE, length=(n, n, n), crops=_ONE
        ),
        _temporal(
            sizes,
            "many views",
            units=(1, sizes.clips_units, most),
            clips=(1, sizes.clips.num_clips, sizes.most_clips),
            length=(1, n, max(n, sizes.longest_clip)) if any_length else (n, n, n),
            crops=(1, sizes.clips.num_crops, NUM_CROPS),
        ),
    ]
    if any_length:
        length = 1, sizes.longest_clip, sizes.any_clip
        profiles.append(_temporal(sizes, "any length", units=length, clips=_ONE, length=length, crops=_ONE))
    return profiles


def _temporal(sizes: _Sizes, name: str, *, units: Axis, clips: Axis, length: Axis, crops: Axis) -> Profile:
    geometry = sizes.contract.geometry
    if geometry.feature_dim is None:
        raise ValueError("a joint model has no temporal stage")
    width = (geometry.feature_dim,) * 3
    inputs = {"FEATURES": _shapes(units, width), "CLIP_UNITS": _shapes(clips, length)}
    if geometry.positions:
        inputs["CLIP_POSITIONS"] = _shapes(clips, length)
    inputs["CROPS"] = _shapes(crops, (2, 2, 2))
    return Profile(name=name, inputs=inputs)


def _shapes(*axes: Axis) -> Shapes:
    least, opt, most = zip(*axes, strict=True)
    return Shapes(least=least, opt=opt, most=most)


def _distinct(profiles: list[Profile]) -> tuple[Profile, ...]:
    """Without those that another one before them equals."""
    return tuple(
        profile for i, profile in enumerate(profiles) if all(profile.inputs != before.inputs for before in profiles[:i])
    )
