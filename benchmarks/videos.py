"""Videos to measure with: a scene under a moving camera, as H.264."""

from __future__ import annotations

from pathlib import Path

from tubelet.demo.long_video import encode_panning

__all__ = ["moving_video"]

FPS = 25


def moving_video(folder: Path, *, seconds: int, width: int, height: int) -> bytes:
    """An MP4 file of 25 frames a second; made once and kept in ``folder``."""
    path = folder / f"moving_{width}x{height}_{seconds}s.mp4"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        encode_panning(partial, seconds * FPS, size=(width, height), fps=FPS, options={"crf": "23"})
        partial.replace(path)
    return path.read_bytes()
