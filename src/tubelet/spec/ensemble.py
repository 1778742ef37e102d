"""Models that answer together: the promise of a served ensemble of bundles.

VidTr's paper (arXiv:2104.11746, table 3) serves each of its models with an I3D-50 in this way, as En-VidTr.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from tubelet.spec.bounds import check_model_name
from tubelet.spec.manifest import Contract, Head
from tubelet.spec.protocol import ANY_CLIPS, ANY_FULL, Protocol
from tubelet.spec.strict import decode, digest

__all__ = ["EnsembleContract", "cheapest_protocol", "decode_contract"]

_FEW_FRAMES = 8
"""Of the whole video, where a model takes any number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleContract:
    """Everything that a caller can observe of models that answer together.

    Each member decodes, samples and averages as its own contract says; their answers count the same.
    """

    schema_version: Literal[1]
    name: str
    members: tuple[Contract, ...]
    aggregation: Literal["mean_probabilities"]

    def __post_init__(self) -> None:
        check_model_name(self.name)
        if len({member.name for member in self.members}) < max(2, len(self.members)):
            raise ValueError("an ensemble has two or more different members")
        classes = {
            tuple((h.num_classes, h.activation, h.labels_sha256) for h in member.heads) for member in self.members
        }
        if len(classes) > 1:
            raise ValueError("the members of an ensemble must have the same classes, in the same order")
        if not self.protocols:
            raise ValueError("the members of an ensemble must have a protocol in common")

    @property
    def heads(self) -> tuple[Head, ...]:
        return self.members[0].heads

    @property
    def num_classes(self) -> int:
        """C, classes of all heads together."""
        return self.members[0].num_classes

    @property
    def protocols(self) -> tuple[str, ...]:
        """Those that all members have."""
        named = dict.fromkeys(protocol for member in self.members for protocol in member.protocols)
        return tuple(protocol for protocol in named if self.allows(protocol))

    def allows(self, protocol: str) -> bool:
        """Whether all members have a protocol of that name."""
        return all(member.allows(protocol) for member in self.members)

    @property
    def default_protocol(self) -> str:
        """What a request without one gets; each member takes its own, so they are named where they differ."""
        return "+".join(dict.fromkeys(member.default_protocol for member in self.members))

    @property
    def digest(self) -> str:
        return digest(self)


def decode_contract(data: Any, *, where: str) -> Contract | EnsembleContract:
    """Reads the contract of whatever is served under a public name.

    Raises:
        RecipeError: ``bad_recipe``, as `tubelet.spec.strict.decode`.
    """
    if isinstance(data, dict) and "members" in data:
        return decode(EnsembleContract, data, where=where)
    return decode(Contract, data, where=where)


def cheapest_protocol(contract: Contract | EnsembleContract) -> str:
    """The protocol that asks the fewest units of a long video: for a request whose answer matters, and not its figures.

    Of protocols that stand for many it is one of few views or frames.
    """
    members = contract.members if isinstance(contract, EnsembleContract) else (contract,)
    frames = math.lcm(_FEW_FRAMES, *(member.geometry.unit_frames for member in members))
    few = {ANY_CLIPS: "1x1", ANY_FULL: f"full{frames}"}
    named = {few.get(protocol, protocol) for protocol in contract.protocols}
    parsed = map(Protocol.parse, sorted(named))
    return min(parsed, key=lambda protocol: sum(member.num_units(protocol) for member in members)).name
