"""The limits of one request while its video is read: a clock and a counter, looked at in every loop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from tubelet.spec.errors import DeadlineError, InvalidVideoError, LimitError
from tubelet.spec.limits import Limits

__all__ = ["MAX_ASPECT", "MIN_SIDE_PX", "Guard"]

MIN_SIDE_PX = 8
"""Smaller pictures hold nothing that could be classified."""
MAX_ASPECT = 32
"""Long side over short side; beyond it a resize to the short side would blow the picture up without bound."""


@dataclass(slots=True)
class Guard:
    """Watches one request; every method either returns or raises the error of the limit that was passed."""

    limits: Limits
    deadline: float = math.inf
    """Value of ``time.monotonic()`` after which nobody waits for the answer."""
    started: float = field(default_factory=time.monotonic)
    frames_decoded: int = 0
    """Frames that the decoder delivered, over all passes."""

    def check_time(self) -> None:
        """Looks at the clock.

        Raises:
            DeadlineError: the request's time is over.
            LimitError: ``decode_timeout``.
        """
        now = time.monotonic()
        if now > self.deadline:
            raise DeadlineError("deadline_exceeded", "the request's time ended while its video was decoded")
        if now - self.started > self.limits.decode_timeout_s:
            raise LimitError(
                "decode_timeout",
                f"decoding took longer than decode_timeout_s, which is {self.limits.decode_timeout_s:g} s",
            )

    def check_bytes(self, num_bytes: int) -> None:
        """Raises LimitError ``too_large`` for more bytes than ``max_video_bytes``."""
        if num_bytes > self.limits.max_video_bytes:
            raise LimitError(
                "too_large", f"the video has {num_bytes} bytes, max_video_bytes is {self.limits.max_video_bytes}"
            )

    def count_frame(self) -> None:
        """Counts a frame that was decoded; raises as `check_frames` does."""
        self.frames_decoded += 1
        self.check_frames(self.frames_decoded)

    def check_frames(self, num_frames: int) -> None:
        """Raises LimitError ``too_long`` for more frames than ``max_decoded_frames``."""
        if num_frames > self.limits.max_decoded_frames:
            raise LimitError(
                "too_long",
                f"the video has more frames than max_decoded_frames, which is {self.limits.max_decoded_frames}",
            )

    def check_duration(self, duration_s: float) -> None:
        """Raises LimitError ``too_long`` for a longer time than ``max_duration_s``."""
        if duration_s > self.limits.max_duration_s:
            raise LimitError(
                "too_long",
                f"the video lasts {duration_s:.1f} s by its time stamps, "
                f"max_duration_s is {self.limits.max_duration_s:g}",
            )

    def check_size(self, *, width: int, height: int) -> None:
        """Checks the size of a picture, in pixels.

        Raises:
            LimitError: ``too_many_pixels``.
            InvalidVideoError: ``bad_dimensions``, too small or too long a shape.
        """
        if width * height > self.limits.max_frame_pixels:
            raise LimitError(
                "too_many_pixels",
                f"frames of {width}x{height} are {width * height} pixels, "
                f"max_frame_pixels is {self.limits.max_frame_pixels}",
            )
        short, long = sorted((width, height))
        if short < MIN_SIDE_PX or long > MAX_ASPECT * short:
            raise InvalidVideoError(
                "bad_dimensions",
                f"frames of at least {MIN_SIDE_PX} pixels a side and a shape of at most {MAX_ASPECT}:1 are expected, "
                f"got {width}x{height}",
            )
