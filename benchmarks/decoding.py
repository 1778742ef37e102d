"""Measures the sample step: its time against decoding every frame to RGB, and its peak memory.

python benchmarks/decoding.py [--rounds 7] [--out benchmarks/results/NAME.json]

Clips are 10 s of 1920x1080 at 30 frames a second, H.264 with x264's own settings, key frames every 250 frames (its
default) and every 60; the long video is two hours of the same at a low bit rate, two groups of pictures again and
again. They are kept in ``build/bench/videos``. Memory is the peak of a process of its own that reads the file and
prepares it.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
from timing import in_turns, spread

from tubelet.demo.long_video import encode_panning, repeat_video
from tubelet.preprocess.prepare import Prepared, prepare_video
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.request import Request
from tubelet.spec.strict import canonical_json, decode, encode

__all__ = ["measure"]

VIDEOS = Path("build/bench/videos")
SIZE, FPS = (1920, 1080), 30
GROUPS = {"default": 250, "short": 60}
"""Frames from key frame to key frame."""
LONG_GROUP = {"g": "250", "keyint_min": "250", "sc_threshold": "0", "crf": "50"}
LONG_TURNS = 2 * 3600 * FPS // 500
LIMITS = Limits(decode_timeout_s=600)
"""How long it takes is measured here, not judged."""
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", nargs=3, metavar=("VIDEO", "PROTOCOL", "CONTRACT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        video, protocol, contract = arguments.peak
        print(json.dumps(_prepare_once(Path(video), protocol, Path(contract))))  # noqa: T201
        return
    text = json.dumps(measure(rounds=arguments.rounds), indent=2)
    print(text)  # noqa: T201
    if arguments.out:
        arguments.out.write_text(text + "\n")


def measure(*, rounds: int = 7) -> dict[str, Any]:
    """All figures.

    Returns:
        ``one_view``: by kind of clip, seconds of each way, and ``ratio``, the median over the rounds of the sample step
        against the faster way of decoding all frames, its resize not counted (``ratio_with_resize``: counted;
        ``processor_ratio``: the same in seconds of processor time, against the cheaper way).
        ``peak``: by case, memory in MiB and what it consists of, frames decoded and seconds.
    """
    cv2.setNumThreads(1)  # as the sample step
    vivit, vtn = _contract("vivit_b_16x2_k400"), _contract("vtn_vit_b_k400")
    clips = {name: _kept(f"panning_1080p_10s_g{group}.mp4", _clip(group)) for name, group in GROUPS.items()}
    long = _kept("panning_1080p_2h.mp4", _long_video)
    return {
        "one_view": {name: _one_view(clip.read_bytes(), vivit, rounds) for name, clip in clips.items()},
        "peak": {
            "10x3 of 10 s": _peak(clips["default"], "10x3", vivit),
            "full of 2 h": _peak(long, "full", vtn),
        },
    }


def _one_view(video: bytes, contract: Contract, rounds: int) -> dict[str, Any]:
    prepared: list[Prepared] = []
    calls: dict[str, Callable[[], object]] = {
        "one centre view": lambda: prepared.append(_prepare(video, "1x1", contract)),
        "all frames": lambda: _decode_all(video, {}),
        "all frames, a thread for each picture": lambda: _decode_all(
            video, {"thread_type": "FRAME", "thread_count": 2}
        ),
    }
    worked: dict[str, list[float]] = {name: [] for name in calls}
    seconds = in_turns({name: partial(_note_work, call, worked[name]) for name, call in calls.items()}, rounds=rounds)
    resize = [one.milliseconds["resize"] / 1000 for one in prepared]
    return {
        "mbit_per_s": round(len(video) * 8 / 10 / 1e6, 2),
        "frames_decoded": prepared[0].frames_decoded,
        "frames": prepared[0].num_frames,
        "seconds": {name: spread(values) for name, values in seconds.items()} | {"resize": spread(resize)},
        "processor_seconds": {name: spread(values) for name, values in worked.items()},
        "ratio": _ratio(seconds, less=resize),
        "ratio_with_resize": _ratio(seconds, less=[0.0] * rounds),
        "processor_ratio": _ratio(worked, less=[0.0] * rounds),
    }


def _note_work(call: Callable[[], object], worked: list[float]) -> None:
    began = time.process_time()
    call()
    worked.append(time.process_time() - began)


def _ratio(seconds: Mapping[str, list[float]], *, less: list[float]) -> float:
    """The first way against the fastest of the others: median over the rounds."""
    ours, *others = seconds.values()
    ratios = [(one - spent) / min(rivals) for one, spent, *rivals in zip(ours, less, *others, strict=True)]
    return round(statistics.median(ratios), 4)


def _decode_all(video: bytes, threads: Mapping[str, Any]) -> None:
    with av.open(io.BytesIO(video), "r") as container:
        stream = container.streams.video[0]
        for name, value in threads.items():
            setattr(stream.codec_context, name, value)
        for frame in container.decode(stream):
            frame.to_ndarray(format="rgb24")


def _prepare(video: bytes, protocol: str, contract: Contract) -> Prepared:
    request = Request.from_parameters({"protocol": protocol}, contract, LIMITS)
    return prepare_video(video, request, contract, LIMITS)


def _peak(video: Path, protocol: str, contract: Contract) -> dict[str, Any]:
    """Runs this file again, in a process that knows no more than the sample step does."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(canonical_json(encode(contract)))
        file.flush()
        command = [sys.executable, "-W", "ignore", __file__, "--peak", str(video), protocol, file.name]
        found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def _prepare_once(path: Path, protocol: str, contract_file: Path) -> dict[str, Any]:
    cv2.setNumThreads(1)
    contract = decode(Contract, json.loads(contract_file.read_text()), where="contract")
    before_mib = _peak_mib()
    video = path.read_bytes()
    began, worked = time.perf_counter(), time.process_time()
    prepared = _prepare(video, protocol, contract)
    return {
        "peak_mib": _peak_mib(),
        "before_mib": before_mib,
        "video_mib": round(len(video) / MIB, 1),
        "frames_kept_mib": round(prepared.frames.nbytes / MIB, 1),
        "frames_kept": len(prepared.frames),
        "frames_decoded": prepared.frames_decoded,
        "frames": prepared.num_frames,
        "seconds": round(time.perf_counter() - began, 2),
        "processor_seconds": round(time.process_time() - worked, 2),
    }


def _peak_mib() -> float:
    """The most memory that this process has had so far."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(lines["VmHWM"].split()[0]) / 1024, 1)


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    path = VIDEOS / name
    if not path.exists():
        VIDEOS.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        make(partial)
        partial.replace(path)
    return path


def _clip(group: int) -> Callable[[Path], None]:
    return lambda path: encode_panning(path, 10 * FPS, size=SIZE, fps=FPS, options={"g": str(group), "crf": "12"})


def _long_video(path: Path) -> None:
    groups = io.BytesIO()
    encode_panning(groups, 500, size=SIZE, fps=FPS, options=LONG_GROUP)
    groups.seek(0)
    repeat_video(groups, path, times=LONG_TURNS)


def _contract(name: str) -> Contract:
    """That of a network of the papers, as its recipe has it."""
    from full_size import RECIPES  # brings torch, which the processes that are measured do without

    from tubelet.export.bundle import contract_of, read_labels
    from tubelet.export.count import on_meta
    from tubelet.export.papers import FULL_SIZE
    from tubelet.spec.recipe import Recipe

    plan = Recipe.load(RECIPES / f"{name}.toml")
    return contract_of(plan, on_meta(FULL_SIZE[name]), read_labels(plan, RECIPES))


if __name__ == "__main__":
    main()
