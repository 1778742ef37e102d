"""How a video becomes views: the evaluation protocols of the papers, by name."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Protocol"]

_CLIPS_BY_CROPS = re.compile(r"([1-9][0-9]{0,3})x(1|3)")


@dataclass(frozen=True, slots=True)
class Protocol:
    """A named protocol.

    ``1x1``, ``4x3``, ``10x3`` are clips x crops; ``tsn`` is one clip of the sampler's length spread over the video;
    ``full`` is one clip over the whole video with as many frames as the contract's ``full_video`` says.
    """

    name: str
    num_clips: int
    num_crops: int

    @classmethod
    def parse(cls, name: str) -> Protocol:
        """Reads a protocol's name.

        Raises:
            ValueError: not a protocol; crops are 1 (centre) or 3 (along the long side).
        """
        if name in ("tsn", "full"):
            return cls(name, 1, 1)
        found = _CLIPS_BY_CROPS.fullmatch(name)
        if found is None:
            raise ValueError(f"a protocol is 'tsn', 'full' or clips x crops like '4x3' (crops 1 or 3), got {name!r}")
        return cls(name, int(found[1]), int(found[2]))

    @property
    def num_views(self) -> int:
        return self.num_clips * self.num_crops
