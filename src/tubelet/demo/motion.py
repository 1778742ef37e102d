"""Renders synthetic videos of one motion each: what moves on the screen names the class.

A label is the direction in which the picture's content moves. ``left`` is a shape that moves to the left over a still
background, and also the whole picture moving to the left, as when a camera pans to the right; ``grow`` is a shape that
grows, and also a camera that zooms in. The motion lasts for the whole video: a shape that has gone far enough starts
again, so any window of a video shows its class.

A clip is a pure function of split, seed and index; the splits share no family of textures and no kind of shape. Lengths
are in *sides*, the short side of the video, so that a clip looks alike at every size.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tubelet.demo.shapes import render_mask
from tubelet.demo.textures import Image, Split, render_texture

__all__ = ["LABELS", "Clip", "render_clip"]

LABELS = ("left", "right", "up", "down", "clockwise", "counter-clockwise", "grow", "shrink")
"""Classes, in the order of the model's logits."""

HEADINGS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
FRAME_RATES = (10, 12, 15, 20, 24, 25, 30, 50, 60)
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "medium")
ASPECTS = (1.0, 1.2, 4 / 3, 1.5, 16 / 9)

Poses = NDArray[np.float64]
"""`[N, 4]` per frame: centre x and y in pixels, angle in radians (clockwise on the screen), scale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A rendered video and how it is to be encoded."""

    frames: Image
    """`[N, h, w, 3]`, RGB; h and w are even, as H.264 in 4:2:0 needs."""
    fps: int
    label: str
    """One of `LABELS`."""
    crf: int
    """x264's constant rate factor: 18 is near lossless, 36 is poor."""
    preset: str


@dataclass(frozen=True, slots=True)
class _Layer:
    texture: Image
    mask: NDArray[np.float32] | None
    """None: an endless plane, the texture mirrored at its edges."""
    poses: Poses


def render_clip(split: Split, seed: int, index: int) -> Clip:
    """Renders clip ``index`` of a data set; labels take turns, so any 8 neighbours hold each class once."""
    rng = np.random.default_rng([zlib.crc32(split.encode()), seed, index])
    label = LABELS[index % len(LABELS)]
    width, height = _size(rng)
    num_frames = int(rng.integers(20, 91))
    draw = _camera_layers if rng.random() < 0.5 else _shape_layers
    layers = draw(rng, split, label, (num_frames, height, width))
    shake = _shake(rng, num_frames) * min(width, height)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for i in range(num_frames):
        for layer in layers:
            x, y, angle, scale = layer.poses[i]
            _paint(frames[i], layer, (x + shake[i, 0], y + shake[i, 1], angle, scale))
    return Clip(
        frames=_lit(rng, frames),
        fps=int(rng.choice(FRAME_RATES)),
        label=label,
        crf=int(rng.integers(18, 37)),
        preset=str(rng.choice(PRESETS)),
    )


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height: short side 72 to 240, small ones more often, landscape or portrait."""
    short = 72 * (240 / 72) ** (rng.random() ** 2)
    long = min(320.0, short * float(rng.choice(ASPECTS)))
    short_px, long_px = 2 * round(short / 2), 2 * round(long / 2)
    return (short_px, long_px) if rng.random() < 0.3 else (long_px, short_px)


def _camera_layers(rng: np.random.Generator, split: Split, label: str, shape: tuple[int, int, int]) -> list[_Layer]:
    """One plane that fills the picture and moves as a whole."""
    num_frames, height, width = shape
    side = min(height, width)
    texture = render_texture(
        rng, split=split, side_px=round(1.6 * max(height, width)), feature_px=side * rng.uniform(0.1, 0.3)
    )
    centre = np.array([width, height]) / 2 + rng.uniform(-0.12, 0.12, 2) * side
    return [_Layer(texture, None, _poses(rng, label, num_frames, centre=centre, side=side, travel=None))]


def _shape_layers(rng: np.random.Generator, split: Split, label: str, shape: tuple[int, int, int]) -> list[_Layer]:
    """One to three textured shapes that move over a still background; sometimes still shapes too."""
    num_frames, height, width = shape
    side = min(height, width)
    middle = np.array([width, height]) / 2
    plane = render_texture(
        rng, split=split, side_px=round(1.2 * max(height, width)), feature_px=side * rng.uniform(0.1, 0.5)
    )
    layers = [_Layer(plane, None, _still(num_frames, middle))]
    if rng.random() < 0.3:
        place = middle + rng.uniform(-0.5, 0.5, 2) * side
        layers.append(_sprite(rng, split, side * rng.uniform(0.1, 0.2), _still(num_frames, place)))
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))):
        # A shape far from the middle would lie outside the crop that the model sees.
        place = middle + rng.uniform(-0.18, 0.18, 2) * side
        poses = _poses(rng, label, num_frames, centre=place, side=side, travel=rng.uniform(0.6, 0.9))
        layers.append(_sprite(rng, split, side * rng.uniform(0.17, 0.3), poses))
    return layers


def _sprite(rng: np.random.Generator, split: Split, radius_px: float, poses: Poses) -> _Layer:
    side_px = 2 * round(radius_px) + 4
    texture = render_texture(rng, split=split, side_px=side_px, feature_px=radius_px * rng.uniform(0.4, 0.9))
    return _Layer(texture, render_mask(rng, split=split, side_px=side_px), poses)


def _still(num_frames: int, centre: NDArray[np.float64]) -> Poses:
    return np.tile([*centre, 0.0, 1.0], (num_frames, 1))


def _poses(
    rng: np.random.Generator,
    label: str,
    num_frames: int,
    *,
    centre: NDArray[np.float64],
    side: int,
    travel: float | None,
) -> Poses:
    """The motion ``label`` from a random start; shapes start again after ``travel`` sides, planes (None) never."""
    poses = _still(num_frames, centre)
    poses[:, 2] = rng.uniform(0, 2 * np.pi)
    time = np.arange(num_frames)
    if label in HEADINGS:
        gone = time * rng.uniform(0.012, 0.032)
        if travel is not None:
            gone = (gone + rng.uniform(0, travel)) % travel - travel / 2
        poses[:, :2] += gone[:, None] * side * _tilted(rng, HEADINGS[label])
    elif label in ("grow", "shrink"):
        octaves = rng.uniform(1.2, 1.8)
        exponent = (time * rng.uniform(0.04, 0.085) + rng.uniform(0, octaves)) % octaves - octaves / 2
        poses[:, 3] = 2 ** (exponent if label == "grow" else -exponent)
    else:
        turned = time * np.deg2rad(rng.uniform(2.0, 6.0))
        poses[:, 2] += turned if label == "clockwise" else -turned
    return poses


def _tilted(rng: np.random.Generator, heading: tuple[int, int]) -> NDArray[np.float64]:
    angle = np.deg2rad(rng.uniform(-12, 12))
    x, y = heading
    return np.array([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)])


def _shake(rng: np.random.Generator, num_frames: int) -> NDArray[np.float64]:
    """Camera shake in sides, `[N, 2]`: none in most clips, else well below the motion that is to be seen."""
    if rng.random() < 0.7:
        return np.zeros((num_frames, 2))
    return rng.uniform(0.001, 0.005) * rng.standard_normal((num_frames, 2))


def _lit(rng: np.random.Generator, frames: Image) -> Image:
    """Applies a slow change of brightness to some clips."""
    if rng.random() < 0.6:
        return frames
    time = np.arange(len(frames)) / len(frames)
    gain = 1 + rng.uniform(0.05, 0.25) * np.sin(2 * np.pi * (rng.uniform(0.5, 2) * time + rng.random()))
    return np.stack([cv2.convertScaleAbs(frame, alpha=float(g)) for frame, g in zip(frames, gain, strict=True)])


def _paint(frame: Image, layer: _Layer, pose: tuple[float, float, float, float]) -> None:
    """Draws a layer into ``frame`` (uint8 `[h, w, 3]`, changed in place)."""
    x, y, angle, scale = pose
    height, width = frame.shape[:2]
    half = (layer.texture.shape[0] - 1) / 2
    left, top, right, bottom = 0, 0, width, height
    if layer.mask is not None:
        reach = half * scale + 1
        left, top = max(0, int(x - reach)), max(0, int(y - reach))
        right, bottom = min(width, int(x + reach) + 2), min(height, int(y + reach) + 2)
        if left >= right or top >= bottom:
            return
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[c, -s, x - left - half * (c - s)], [s, c, y - top - half * (s + c)]])
    size = (right - left, bottom - top)
    content = cv2.warpAffine(layer.texture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    if layer.mask is None:
        frame[:] = content
        return
    cover = cv2.warpAffine(layer.mask, matrix, size, flags=cv2.INTER_LINEAR)[..., None]
    window = frame[top:bottom, left:right]
    window[:] = np.rint(window + (content - window.astype(np.float32)) * cover).astype(np.uint8)
