"""Where frames go that come out of a decoder: resized at once, to the size that the first of them gets."""

from __future__ import annotations

import time
from collections.abc import Collection, Set
from dataclasses import dataclass, field

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from tubelet.preprocess.decode import RgbConverter
from tubelet.preprocess.resize import resize_frame, resized_size
from tubelet.spec.pipeline import Resize

__all__ = ["FrameStore"]


@dataclass(slots=True)
class FrameStore:
    """Frames that were taken, resized at once to the size that the first of them gets."""

    resize: Resize
    num_crops: int
    """R of the protocol."""
    to_rgb: RgbConverter = field(default_factory=RgbConverter)
    frames: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    """Of ``block``, by the number of the frame."""
    block: NDArray[np.uint8] | None = None
    """``[E, h, w, 3]``, where the frames that were expected lie, and stay if no others are needed."""
    size: tuple[int, int] | None = None
    source_shape: tuple[int, ...] | None = None
    sizes_differ: bool = False
    resize_s: float = 0.0

    def take(self, number: int, frame: VideoFrame) -> None:
        """Takes a frame as it came out of the decoder."""
        self.add(number, self.to_rgb(frame))

    def add(self, number: int, pixels: NDArray[np.uint8]) -> None:
        """Takes a frame uint8 ``[h, w, 3]``, RGB and upright."""
        began = time.monotonic()
        if self.size is None:
            self.source_shape = pixels.shape
            height, width = pixels.shape[:2]
            self.size = resized_size(self.resize, height=height, width=width, num_crops=self.num_crops)
        self.sizes_differ |= pixels.shape != self.source_shape
        resized = resize_frame(self.resize, pixels, size=self.size)
        self.resize_s += time.monotonic() - began
        self.keep(number, resized)

    def expect(self, numbers: Collection[int]) -> None:
        """Says which frames will come, as far as one knows."""
        self.rows = {number: row for row, number in enumerate(sorted(numbers))}

    def keep(self, number: int, frame: NDArray[np.uint8]) -> None:
        """Takes over a resized frame."""
        if self.block is None:
            self.block = np.empty((len(self.rows), *frame.shape), dtype=np.uint8)
        if number in self.rows:
            self.block[self.rows[number]] = frame
            frame = self.block[self.rows[number]]
        self.frames[number] = frame

    @property
    def numbers(self) -> Set[int]:
        """Of the frames that came."""
        return self.frames.keys()

    def restart(self) -> None:
        """Forgets all frames; those that come now may have another size."""
        self.to_rgb, self.frames, self.block = RgbConverter(), {}, None
        self.size, self.source_shape, self.sizes_differ = None, None, False

    def gather(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Returns uint8 ``[F, h, w, 3]``; frames that came as expected are not copied."""
        wanted = numbers.tolist()
        if self.block is not None and wanted == list(self.rows):
            return self.block
        return np.stack([self.frames[number] for number in wanted])
