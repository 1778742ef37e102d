"""Videos whose units are encoded as their frames come: no more than a batch of units is kept at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tubelet.preprocess.decoders import PYAV, FrameDecoder
from tubelet.preprocess.geometry import crop_offsets, distinct_crops
from tubelet.preprocess.guard import Guard
from tubelet.preprocess.prepare import Prepared, read_video
from tubelet.preprocess.store import FrameStore
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.request import Request

__all__ = ["Encode", "EncodedVideo", "encode_video"]

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Units uint8 ``[u, 1, S, S, 3]`` -> features float32 ``[u, D]``. The units are overwritten afterwards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedVideo:
    """A video of which the features are left."""

    prepared: Prepared
    """Without its frames."""
    features: NDArray[np.float32]
    """``[U * R, D]``; crop r of unit u is row ``u * R + r``."""
    num_encoded: int
    """Units that were encoded; more than ``U * R`` where the video is not what its packets promised."""
    encode_s: float
    """Time spent in ``encode``."""


def encode_video(
    video: bytes,
    request: Request,
    contract: Contract,
    limits: Limits,
    *,
    largest_batch: int,
    encode: Encode,
    deadline: float = math.inf,
    decoder: FrameDecoder = PYAV,
) -> EncodedVideo:
    """Decodes a video and has its units encoded meanwhile; memory does not grow with the number of frames.

    Args:
        video: the encoded bytes.
        request: protocol and the part of the video.
        contract: of a model whose units are single frames.
        limits: what the request may cost; ``decode_timeout_s`` leaves out the time spent in ``encode``.
        largest_batch: units that ``encode`` gets at a time, at most.
        encode: computes features; what it raises ends the work.
        deadline: value of ``time.monotonic()`` after which nobody waits for the answer.
        decoder: what decodes.

    Returns:
        Features and plan; the units are in the order of `tubelet.preprocess.geometry.cut_units`.

    Raises:
        TubeletError: as `tubelet.preprocess.prepare.prepare_video`.
    """
    guard = Guard(limits, deadline)
    store = _UnitStream(
        contract.resize,
        request.protocol.num_crops,
        contract=contract,
        guard=guard,
        encode=encode,
        batch=np.empty((largest_batch, *contract.unit_shape), np.uint8),
    )
    prepared = read_video(video, request, contract, guard, store, decoder=decoder)
    return EncodedVideo(
        prepared=prepared, features=store.features, num_encoded=store.num_encoded, encode_s=store.encode_s
    )


@dataclass(slots=True, kw_only=True)
class _UnitStream(FrameStore):
    """Cuts each frame's crops into a batch, and has the batch encoded whenever it is full."""

    contract: Contract
    guard: Guard
    encode: Encode
    batch: NDArray[np.uint8]
    """``[largest_batch, 1, S, S, 3]``."""
    crops: NDArray[np.int32] = field(default_factory=lambda: np.empty((0, 2), np.int32))
    """``[r, 2]``, those that are no other's window; known with the first frame, whose size all others get."""
    num_waiting: int = 0
    """Rows of the batch that are filled."""
    first_rows: dict[int, int] = field(default_factory=dict)
    """By a frame's number: the row of its first crop among all rows; the other crops' follow."""
    encoded: list[NDArray[np.float32]] = field(default_factory=list)
    features: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """``[U * R, D]``, when all has been gathered."""
    num_encoded: int = 0
    encode_s: float = 0.0

    @property
    def numbers(self) -> Set[int]:
        return self.first_rows.keys()

    def restart(self) -> None:
        FrameStore.restart(self)
        self.crops = self.crops[:0]
        self.num_waiting, self.first_rows, self.encoded = 0, {}, []

    def keep(self, number: int, frame: NDArray[np.uint8]) -> None:
        side = self.contract.crop.size_px
        if not len(self.crops):
            height, width = frame.shape[:2]
            offsets = crop_offsets(self.contract.crop, height=height, width=width, num_crops=self.num_crops)
            self.crops, _ = distinct_crops(offsets)
        self.first_rows[number] = len(self.first_rows) * len(self.crops)
        for y, x in self.crops.tolist():
            self.batch[self.num_waiting, 0] = frame[y : y + side, x : x + side]
            self.num_waiting += 1
            if self.num_waiting == len(self.batch):
                self._flush()

    def gather(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        self._flush()
        first_rows = np.array([self.first_rows[number] for number in numbers.tolist()])
        rows = first_rows[:, None] + np.arange(len(self.crops))
        self.features = np.concatenate(self.encoded)[rows.ravel()]
        return np.empty((0, *(self.size or (0, 0)), 3), np.uint8)

    def _flush(self) -> None:
        if not self.num_waiting:
            return
        began = time.monotonic()
        self.encoded.append(self.encode(self.batch[: self.num_waiting]))
        spent = time.monotonic() - began
        # Time to decode is what the video may take, not what the network takes.
        self.guard.started += spent
        self.encode_s += spent
        self.num_encoded += self.num_waiting
        self.num_waiting = 0
