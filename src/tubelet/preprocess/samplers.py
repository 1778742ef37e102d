"""Which frames make the clips of a video, for pipelines that only count frames.

Integers in, integers out. Each function is named after the pipeline that it reproduces, and looks at a video as N
frames numbered from 0. `tubelet.preprocess.pyslowfast` has those that look at time stamps too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["gluoncv_i3d_clips", "gluonmm_clips", "scenic_clips", "tsn_clips"]


def scenic_clips(num_frames: int, *, clip_frames: int, stride: int, num_clips: int) -> NDArray[np.int64]:
    """Clips of scenic's test pipeline: the middle one, or evenly spaced ones from the first frame to the end.

    A video that is too short starts again from its first frame. The spacing is TensorFlow's ``linspace`` in float32,
    cut off to integers (DMVR ``processors.sample_linspace_sequence`` and ``sample_sequence``).

    Args:
        num_frames: N, frames of the video, at least 1.
        clip_frames: T, frames of a clip.
        stride: source frames from one frame of a clip to the next.
        num_clips: K.

    Returns:
        int64 ``[K, T]``, frame indices below N.
    """
    slack = max(0, num_frames - clip_frames * stride)
    if num_clips == 1:
        starts = np.array([slack // 2], dtype=np.int64)
    else:
        step = np.float32(slack) / np.float32(num_clips - 1)
        spaced = step * np.arange(num_clips, dtype=np.float32)
        spaced[-1] = slack
        starts = spaced.astype(np.int64)
    within = stride * np.arange(clip_frames, dtype=np.int64)
    return (starts[:, None] + within) % num_frames


def gluonmm_clips(num_frames: int, *, clip_frames: int, stride: int, num_clips: int) -> NDArray[np.int64]:
    """Clips of VidTr's test pipeline: they begin at K even steps, the first of them at the first frame.

    A clip stays at its last frame where the next one would lie beyond the video; a video that is too short has K
    equal clips (gluonmm ``src/transformers/data/datasets``).

    Args:
        num_frames: N, frames of the video, at least 1.
        clip_frames: T, frames of a clip.
        stride: source frames from one frame of a clip to the next.
        num_clips: K.

    Returns:
        int64 ``[K, T]``, frame indices below N.
    """
    slack = max(0, num_frames - clip_frames * stride + 1)
    starts = (slack / num_clips * np.arange(num_clips)).astype(np.int64)
    return _stay_at_the_last(starts, num_frames=num_frames, clip_frames=clip_frames, stride=stride)


def gluoncv_i3d_clips(num_frames: int, *, clip_frames: int, stride: int, num_clips: int) -> NDArray[np.int64]:
    """Clips of GluonCV's test pipeline: every ``stride``-th frame is read, K clips lie evenly among those.

    A video that is too short stays at the last frame that was read (``gluoncv/torch/data/video_cls``).

    Args:
        num_frames: N, frames of the video, at least 1.
        clip_frames: T, frames of a clip.
        stride: source frames from one frame of a clip to the next.
        num_clips: K; a single clip begins at the first frame.

    Returns:
        int64 ``[K, T]``, frame indices below N.
    """
    num_read = -(-num_frames // stride)
    step = max((num_read - clip_frames) / max(1, num_clips - 1), 0)
    starts = stride * (np.arange(num_clips) * step).astype(np.int64)
    return _stay_at_the_last(starts, num_frames=num_frames, clip_frames=clip_frames, stride=stride)


def tsn_clips(num_frames: int, *, clip_frames: int) -> NDArray[np.int64]:
    """One clip spread over the whole video: the middle frame of each of T equal segments.

    ``floor(N / T * (i + 0.5))``, computed in integers. Videos with fewer than T frames repeat frames.

    Args:
        num_frames: N, frames of the video, at least 1.
        clip_frames: T, frames of the clip.

    Returns:
        int64 ``[1, T]``, rising frame indices below N.
    """
    segment = np.arange(clip_frames, dtype=np.int64)
    return (num_frames * (2 * segment + 1) // (2 * clip_frames))[None]


def _stay_at_the_last(
    starts: NDArray[np.int64], *, num_frames: int, clip_frames: int, stride: int
) -> NDArray[np.int64]:
    num_steps = (num_frames - 1 - starts) // stride
    return starts[:, None] + stride * np.minimum(np.arange(clip_frames), num_steps[:, None])
