"""What a scenario asks for, in words."""

from __future__ import annotations

from tubelet.loadtest.quantities import counted
from tubelet.loadtest.scenario import Arrivals, Bursts, Closed, Spacing, Steady, Steps, Synthetic, Trace, Videos

__all__ = ["describe_arrivals", "describe_videos"]

_MOST_STAGES = 6
"""That are told one by one."""
_SPACING: dict[Spacing, str] = {"constant": "evenly spaced", "poisson": "at random (Poisson)"}


def describe_arrivals(arrivals: Arrivals) -> str:
    """Such as ``open loop, 20 a second, at random (Poisson)``."""
    match arrivals:
        case Closed(callers=callers, pause_s=pause_s):
            pause = f", each of which waits {pause_s:g} s after an answer" if pause_s else ""
            return f"closed loop, {counted(callers, 'caller')}{pause}"
        case Steady(rate=rate, spacing=spacing):
            return f"open loop, {rate:g} a second, {_SPACING[spacing]}"
        case Bursts(size=size, every_s=every_s):
            return f"open loop, {size:,} at once every {every_s:g} s"
        case Trace(file=file, speed=speed):
            return f"open loop, as recorded in {file}{'' if speed == 1 else f', {speed:g} times as fast'}"
        case Steps(spacing=spacing):
            return f"open loop, {_describe_stages(arrivals)}, {_SPACING[spacing]}"


def describe_videos(videos: Videos) -> str:
    """Such as ``32 made for the test: h264, 320 x 240, 2 s at 25 a second``."""
    if isinstance(videos, Synthetic):
        size = f"{videos.width} \N{MULTIPLICATION SIGN} {videos.height}"
        return (
            f"{videos.count:,} made for the test: {videos.codec}, {size}, {videos.duration_s:g} s, "
            f"{videos.fps:g} frames a second"
        )
    return f"{videos.path}: {videos.pattern}, the first {videos.most:,} at most"


def _describe_stages(steps: Steps) -> str:
    parts = [
        f"{seconds:g} s at {first:g} a second"
        if first == last
        else f"{seconds:g} s from {first:g} to {last:g} a second"
        for seconds, first, last in steps.stages[:_MOST_STAGES]
    ]
    more = len(steps.stages) - len(parts)
    return ", then ".join(parts) + (f", and {counted(more, 'stage')} more" if more else "")
