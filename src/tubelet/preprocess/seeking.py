"""Which packets of a stream have to be decoded for the frames that are wanted: arithmetic on time stamps.

A frame's number is the rank of its time stamp. Decoding for it begins at the last packet at which a decoder may begin
and which is neither decoded nor shown after it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SeekIndex", "SeekPlan"]

_Flags = NDArray[np.bool_]

_PROBE_FRAMES = 2
"""Frames at the beginning that are decoded in any case: there packets and frames have to agree first."""

_NEAR_STARTS = 16
"""Starts that are looked at for one frame; in time stamps of any sense the last or the last but one is right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeekPlan:
    """How P packets become the W frames that are wanted."""

    numbers: NDArray[np.int64]
    """``[W]``, rising numbers of the frames that have to come, the first ones of the video among them."""
    begins: NDArray[np.int64]
    """``[W]``, the packet at which decoding begins for each of them; all before it may be left out."""
    first_numbers: NDArray[np.int64]
    """``[W]``, number of the first frame that a decoder owes which begins there."""
    is_fed: _Flags
    """``[P]``: not so for a packet that nobody wants or needs."""
    comes: _Flags
    """``[N]``, the same by the number of the frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeekIndex:
    """The P packets of a stream, in decoding order."""

    pts: NDArray[np.int64]
    """``[P]``, in ticks; those of packets that are shown differ from each other."""
    is_shown: _Flags
    """``[P]``: not so where an edit list leaves the frame out."""
    is_start: _Flags
    """``[P]``: a decoder that begins here gives what is decoded and shown from here on as a full decode does."""
    is_disposable: _Flags
    """``[P]``: no other packet needs it."""

    @property
    def begins_whole(self) -> bool:
        """Whether the first packet starts the stream, so that no frame is lost before it."""
        return bool(self.is_start[0] and self.is_shown.any() and self.pts[0] <= self.pts[self.is_shown].min())

    def packets_by_number(self) -> NDArray[np.int64]:
        """Int64 ``[N]``, the packet of each frame."""
        shown = np.flatnonzero(self.is_shown)
        return shown[np.argsort(self.pts[shown])]

    def plan(self, wanted: Collection[int]) -> SeekPlan:
        """The least that has to be decoded.

        Args:
            wanted: numbers of frames, below N.
        """
        packets = self.packets_by_number()
        probe = range(min(_PROBE_FRAMES, len(packets)))
        numbers = np.array(sorted({*wanted, *probe}), dtype=np.int64)
        starts = np.flatnonzero(self.is_start)
        begins = np.array([self._begin(starts, packet) for packet in packets[numbers].tolist()], dtype=np.int64)
        is_fed = ~self.is_disposable
        is_fed[packets[numbers]] = True
        return SeekPlan(
            numbers=numbers,
            begins=begins,
            first_numbers=np.searchsorted(self.pts[packets], self.pts[begins]),
            is_fed=is_fed,
            comes=is_fed[packets],
        )

    def _begin(self, starts: NDArray[np.int64], packet: int) -> int:
        end = int(np.searchsorted(starts, packet, side="right"))
        near = starts[max(0, end - _NEAR_STARTS) : end]
        shown_before = near[self.pts[near] <= self.pts[packet]]
        return int(shown_before[-1]) if len(shown_before) else 0
