"""Makes H.264 videos of textures that move, in any size and as long as one likes, for measuring the decoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, cast

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream

from tubelet.demo.textures import Image, render_texture

__all__ = ["encode_panning", "panning_frames", "repeat_video"]

_TURN_FRAMES = 120
"""Frames until the camera is back where it was."""
_SWING = 0.1
"""How far the camera moves to each side, in heights of the picture."""


def panning_frames(num_frames: int, *, size: tuple[int, int], seed: int = 0) -> Iterator[Image]:
    """Renders a camera that swings over a texture, in front of which a square of another texture crosses the picture.

    Args:
        num_frames: how many.
        size: (width, height) in pixels.
        seed: of the textures.

    Yields:
        Frames uint8 ``[h, w, 3]``, RGB.
    """
    width, height = size
    margin, side = math.ceil(_SWING * height) + 1, height // 3
    rng = np.random.default_rng(seed)
    ground = render_texture(rng, split="train", side_px=max(size) + 2 * margin, feature_px=height / 12)
    square = render_texture(rng, split="train", side_px=side, feature_px=height / 20)
    for number in range(num_frames):
        angle = 2 * math.pi * number / _TURN_FRAMES
        x, y = (margin + round(_SWING * height * turn) for turn in (math.sin(angle), math.cos(angle)))
        frame = ground[y : y + height, x : x + width].copy()
        at = number * height // 250 % (width - side)
        frame[side : 2 * side, at : at + side] = square
        yield frame


def encode_panning(
    target: Path | BinaryIO, num_frames: int, *, size: tuple[int, int], fps: int = 30, options: dict[str, str]
) -> None:
    """Encodes such frames as MP4 with x264.

    Args:
        target: file to write.
        num_frames: how many.
        size: (width, height) in pixels, even.
        fps: constant frame rate.
        options: of the encoder, such as ``{"g": "60", "crf": "23"}``.
    """
    file = str(target) if isinstance(target, Path) else target
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        # x264 cuts each picture into slices for its threads otherwise, which few videos have.
        stream.codec_context.thread_type = "FRAME"
        for pixels in panning_frames(num_frames, size=size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def repeat_video(video: BinaryIO, target: Path | BinaryIO, *, times: int) -> None:
    """Writes a video several times in a row into one MP4 file; nothing is encoded again.

    Args:
        video: of whole groups of pictures, an even number of them (x264 numbers key frames by turns), constant rate.
        target: file to write.
        times: how often.
    """
    with av.open(video, "r") as source:
        stream = source.streams.video[0]
        packets = [packet for packet in source.demux(stream) if packet.size]
        step = round(1 / (cast(Fraction, stream.average_rate) * cast(Fraction, stream.time_base)))
        file = str(target) if isinstance(target, Path) else target
        with av.open(file, "w", format="mp4") as container:
            copy = container.add_stream_from_template(stream)
            for turn in range(times):
                shift = turn * len(packets) * step
                for packet in packets:
                    container.mux(_shifted(packet, copy, shift))


def _shifted(packet: Packet[VideoStream], stream: VideoStream, shift: int) -> Packet[VideoStream]:
    """A copy that is shown later by so many ticks."""
    copy = cast("Packet[VideoStream]", Packet(bytes(packet)))
    copy.stream, copy.time_base, copy.is_keyframe = stream, packet.time_base, packet.is_keyframe
    copy.pts, copy.dts = cast(int, packet.pts) + shift, cast(int, packet.dts) + shift
    copy.duration = packet.duration
    return copy
