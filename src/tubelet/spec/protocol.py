"""How a video becomes views: the evaluation protocols of the papers, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tubelet.spec.bounds import MOST_CLIP_FRAMES

__all__ = ["ANY_CLIPS", "ANY_FULL", "Protocol", "is_allowed", "listed"]

ANY_CLIPS, ANY_FULL = "CxR", "fullN"
"""In a model's list of protocols: any number of clips and crops, the whole video in any number of frames."""

_MEANINGS = {
    ANY_CLIPS: f"{ANY_CLIPS} (any number of clips, 1 or 3 crops)",
    ANY_FULL: f"{ANY_FULL} (the whole video in any number N of frames)",
}

_CLIPS_BY_CROPS = re.compile(r"([1-9][0-9]{0,3})x(1|3)")
_FULL = re.compile(r"full([1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True)
class Protocol:
    """A named protocol.

    ``1x1``, ``4x3``, ``10x3`` are clips x crops; ``tsn`` is one clip of the sampler's length spread over the video;
    ``full`` is one clip over the whole video with as many frames as the contract's ``full_video`` says, ``full64`` one
    of 64 frames.
    """

    name: str
    num_clips: int
    num_crops: int
    num_frames: int | None = None
    """Frames of ``full64``; None: the contract says."""

    @classmethod
    def parse(cls, name: str) -> Protocol:
        """Reads a protocol's name.

        Raises:
            ValueError: not a protocol; crops are 1 (centre) or 3 (along the long side).
        """
        if name in ("tsn", "full"):
            return cls(name, 1, 1)
        if (found := _FULL.fullmatch(name)) and int(found[1]) <= MOST_CLIP_FRAMES:
            return cls(name, 1, 1, int(found[1]))
        if found := _CLIPS_BY_CROPS.fullmatch(name):
            return cls(name, int(found[1]), int(found[2]))
        raise ValueError(
            "a protocol is 'tsn', 'full', 'full64' (any number of frames) or clips x crops like '4x3' (crops 1 or 3), "
            f"got {name!r}"
        )

    @property
    def num_views(self) -> int:
        return self.num_clips * self.num_crops

    @property
    def is_full(self) -> bool:
        """Whether it is one clip over the whole video, of a length of its own."""
        return self.name.startswith("full")

    @property
    def wildcard(self) -> str | None:
        """What stands for it in a model's list of protocols: `ANY_CLIPS`, `ANY_FULL`, or nothing but its own name."""
        if self.num_frames is not None:
            return ANY_FULL
        return None if self.is_full or self.name == "tsn" else ANY_CLIPS


def is_allowed(name: str, protocols: Iterable[str]) -> bool:
    """Whether a model with these ``protocols``, among them `ANY_CLIPS` and `ANY_FULL`, has the one called ``name``."""
    allowed = frozenset(protocols)
    if name in allowed:
        return True
    try:
        return Protocol.parse(name).wildcard in allowed
    except ValueError:
        return False


def listed(protocols: Iterable[str]) -> str:
    """Protocols as a message names them, such as "1x1, tsn, CxR (any number of clips, 1 or 3 crops)"."""
    return ", ".join(_MEANINGS.get(name, name) for name in protocols)
