"""A tiny real video for warm-up and health checks: one second of H.264, 64x64, in the package itself.

Made once with FFmpeg's own test source::

    ffmpeg -f lavfi -i testsrc2=size=64x64:rate=32:duration=1 -c:v libx264 -crf 35 -pix_fmt yuv420p canary.mp4
"""

from __future__ import annotations

from importlib.resources import files

__all__ = ["canary_video"]


def canary_video() -> bytes:
    """The bytes of the video."""
    return files("tubelet.preprocess").joinpath("canary.mp4").read_bytes()
