"""What a request may cost: every limit has a name, a unit and a default, and a test that trips it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from tubelet.spec.errors import InvalidRequestError

__all__ = ["Limits"]

MOST = 2**31 - 1
"""Triton keeps several of them in so many bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds that hold for every request of a model; enforced while the work is done, never after it."""

    max_video_bytes: int = 256 * 1024 * 1024
    """Encoded video, as it comes in the request."""
    max_frame_pixels: int = 7680 * 4320
    """Width times height of a decoded frame (8K UHD): a decoder may hold a dozen of them at a time."""
    max_duration_s: float = 14_400.0
    """Time stamp span of the decoded part of a video."""
    max_decoded_frames: int = 500_000
    """Frames that the decoder may deliver for one request, counted while decoding: headers lie."""
    max_views: int = 64
    """Clips times crops of one request."""
    max_units: int = 4096
    """Encoder inputs of one request, and the largest batch of the encoder."""
    decode_timeout_s: float = 60.0
    """Wall time for demuxing and decoding one video."""
    queue_size: int = 64
    """Requests that may wait, still encoded, before the sample step; one more is refused."""
    default_deadline_s: float = 300.0
    """Time for a request that names no deadline of its own, and the most that it may ask for."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST:
                raise InvalidRequestError(
                    "bad_parameter", f"limit {field.name} must be a positive number up to {MOST}, got {value!r}"
                )

    def override(self, assignments: Iterable[str]) -> Limits:
        """Returns these limits with ``NAME=VALUE`` assignments applied.

        Raises:
            InvalidRequestError: an unknown name, or a value that is no positive number.
        """
        kinds = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        changes: dict[str, float] = {}
        for assignment in assignments:
            name, _, text = assignment.partition("=")
            if name not in kinds:
                raise InvalidRequestError("bad_parameter", f"no limit is called {name!r}; there are {', '.join(kinds)}")
            try:
                changes[name] = kinds[name](text)
            except ValueError as exc:
                raise InvalidRequestError(
                    "bad_parameter", f"limit {name} must be {kinds[name].__name__}, got {text!r}"
                ) from exc
        return replace(self, **changes)  # type: ignore[arg-type]
