"""Every protocol in one request: what is encoded, counted by hand; and that sharing it changes no answer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from real_server import Serving

from tubelet.averaging import average_views
from tubelet.clients.results import Classification
from tubelet.engines.base import Engine, EngineSettings
from tubelet.engines.open import open_engine
from tubelet.export.repository import write_repository
from tubelet.preprocess.geometry import crop_offsets
from tubelet.preprocess.resize import resize_frame, resized_size
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.errors import InvalidRequestError, LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract, Manifest
from tubelet.spec.repository import RepositoryIndex

pytestmark = pytest.mark.needs_triton

MODELS = ("motion", "motion_vtn", "motion_vidtr")
N, FPS = 90, 30
"""Frames of the video, and their rate; every sampler's formula is worked out below for these."""

Clips = list[tuple[int, ...]]


def from_starts(starts: tuple[int, ...], within: tuple[int, ...]) -> Clips:
    return [tuple(start + step for step in within) for start in starts]


# scenic: 16 frames at stride 2; starts are int(58 / (K - 1) * k), 58 being 90 - 32, one clip in the middle.
VIVIT = tuple(range(0, 32, 2))
# pyslowfast: 32 frames of source, 16 at even steps of 31 / 15 cut off; starts are the frames at or after 58 / K * k.
VTN = tuple(31 * i // 15 for i in range(16))
# gluonmm: 8 frames at stride 3; starts are int(67 / K * k), 67 being 90 - 24 + 1.
VIDTR = tuple(range(0, 24, 3))
CLIPS: dict[tuple[str, str], Clips] = {
    ("motion", "1x1"): from_starts((29,), VIVIT),
    ("motion", "4x3"): from_starts((0, 19, 38, 58), VIVIT),
    ("motion", "10x3"): from_starts((0, 6, 12, 19, 25, 32, 38, 45, 51, 58), VIVIT),
    ("motion", "30x1"): from_starts(tuple(range(0, 60, 2)), VIVIT),
    ("motion", "tsn"): [tuple(N * (2 * i + 1) // 32 for i in range(16))],
    ("motion_vtn", "1x1"): from_starts((0,), VTN),
    ("motion_vtn", "4x3"): from_starts((0, 15, 29, 44), VTN),
    ("motion_vtn", "10x3"): from_starts((0, 6, 12, 18, 24, 29, 35, 41, 47, 53), VTN),
    ("motion_vtn", "7x1"): from_starts((0, 9, 17, 25, 34, 42, 50), VTN),
    ("motion_vtn", "tsn"): [tuple(N * (2 * i + 1) // 32 for i in range(16))],
    # One clip over all 90 frames, both ends included.
    ("motion_vtn", "full"): [tuple(89 * i // 31 for i in range(32))],
    ("motion_vtn", "full1"): [(0,)],
    ("motion_vtn", "full64"): [tuple(89 * i // 63 for i in range(64))],
    ("motion_vtn", "full200"): [tuple(89 * i // 199 for i in range(200))],
    ("motion_vidtr", "1x1"): from_starts((0,), VIDTR),
    ("motion_vidtr", "4x3"): from_starts((0, 16, 33, 50), VIDTR),
    ("motion_vidtr", "10x3"): from_starts((0, 6, 13, 20, 26, 33, 40, 46, 53, 60), VIDTR),
    ("motion_vidtr", "tsn"): [tuple(N * (2 * i + 1) // 16 for i in range(8))],
}
"""Frames of each clip."""


@dataclass(frozen=True)
class Served:
    """Models of three families behind one server."""

    bundles: dict[str, Path]
    repository: Path
    serving: Serving

    def classify(self, model: str, video: bytes, **options: Any) -> Classification:
        with self.serving.classifier(model=model) as classifier:
            return classifier.classify(video, **options)

    def quiet_counters(self, model: str) -> tuple[int, dict[str, int]]:
        """How many requests the model has answered, and its counters at a moment when it worked on none."""
        while True:
            before, counters = self._counts(model), self._metrics(model)
            # The sample step alone is warmed up, once in each of its processes.
            if self._counts(model) == before and before[0] == before[1] + self._num_processes(model):
                return before[1], counters

    def _counts(self, model: str) -> tuple[int, int]:
        stats = {entry["name"]: entry["inference_stats"] for entry in self._json("v2/models/stats")["model_stats"]}
        begun, answered = (
            stats[name]["success"]["count"] + stats[name]["fail"]["count"] for name in (f"{model}_sample", model)
        )
        return begun, answered

    def _num_processes(self, model: str) -> int:
        return int(self._json(f"v2/models/{model}_sample/config")["instance_group"][0]["count"])

    def _metrics(self, model: str) -> dict[str, int]:
        with urlopen(self.serving.ready["metrics"]) as answer:
            lines = answer.read().decode().splitlines()
        found = {}
        for name in ("videos", "units_wanted", "units_encoded"):
            (line,) = (line for line in lines if line.startswith(f'tubelet_{name}_total{{model="{model}"}}'))
            found[name] = int(float(line.split()[-1]))
        return found

    def _json(self, path: str) -> Any:
        with urlopen(f"{self.serving.ready['http']}/{path}") as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def served(demo_bundle: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    bundles = {name: demo_bundle(name) for name in MODELS}
    repository = tmp_path_factory.mktemp("protocols") / "repository"
    write_repository(list(bundles.values()), target="cpu", out=repository, limits=Limits())
    with Serving(repository) as serving:
        yield Served(bundles, repository, serving)


@pytest.fixture(scope="module")
def video(make_video: Callable[..., bytes]) -> bytes:
    """Wide enough for three different crops."""
    return make_video(N, fps=FPS, size=(96, 64))


def units_of(clips: Clips, *, unit_frames: int) -> list[tuple[int, ...]]:
    return [clip[i : i + unit_frames] for clip in clips for i in range(0, len(clip), unit_frames)]


@pytest.mark.parametrize(("model", "protocol"), CLIPS)
def test_each_distinct_unit_is_encoded_once(served: Served, video: bytes, model: str, protocol: str) -> None:
    clips = CLIPS[model, protocol]
    contract = Manifest.load(served.bundles[model]).contract
    units = units_of(clips, unit_frames=contract.geometry.unit_frames)
    num_crops = 3 if protocol.endswith("x3") else 1
    wanted, encoded = len(units) * num_crops, len(set(units)) * num_crops

    while True:
        num_before, before = served.quiet_counters(model)
        found = served.classify(model, video, protocol=protocol)
        num_after, after = served.quiet_counters(model)
        if num_after == num_before + 1:  # no canary came between
            break

    assert (found.report.units_wanted, found.report.units_encoded) == (wanted, encoded)
    assert {name: after[name] - before[name] for name in after} == {
        "videos": 1, "units_wanted": wanted, "units_encoded": encoded,
    }  # fmt: skip
    assert found.report.views == len(clips) * num_crops == len(found.view_logits)
    assert len({number for clip in clips for number in clip}) <= found.report.frames_decoded <= N
    assert found.frame_times is not None
    assert found.clip_spans is not None
    np.testing.assert_allclose(found.frame_times, np.array(clips) / FPS, rtol=1e-5)
    np.testing.assert_allclose(found.clip_spans, [[clip[0] / FPS, (clip[-1] + 1) / FPS] for clip in clips], rtol=1e-5)


def test_the_counts_tell_the_protocols_apart() -> None:
    """Much is shared in the sets above, and not all of it."""
    shares = {
        key: len(set(units)) / len(units)
        for key, clips in CLIPS.items()
        for units in [units_of(clips, unit_frames={"motion": 4, "motion_vtn": 1, "motion_vidtr": 8}[key[0]])]
    }
    assert shares["motion_vtn", "10x3"] < 0.4
    assert shares["motion_vtn", "full200"] < 0.5
    assert shares["motion", "30x1"] == 0.35
    assert shares["motion", "10x3"] == shares["motion_vidtr", "10x3"] == shares["motion_vtn", "tsn"] == 1


def test_joint_models_share_whole_clips_of_a_short_video(served: Served, make_video: Callable[..., bytes]) -> None:
    """All clips of a video that is too short are one, and its crops three."""
    found = served.classify("motion_vidtr", make_video(20, fps=FPS, size=(96, 64)), protocol="10x3")
    assert (found.report.units_wanted, found.report.units_encoded) == (30, 3)
    views = found.view_logits.reshape(10, 3, -1)
    np.testing.assert_array_equal(views, np.broadcast_to(views[:1], views.shape))
    assert not np.array_equal(views[0, 0], views[0, 1])


@dataclass
class Unshared:
    """A model's engines, called once for each view, with pixels cut for that view alone."""

    bundle: Path

    def __post_init__(self) -> None:
        self.contract: Contract = Manifest.load(self.bundle).contract
        settings = EngineSettings.small("openvino")
        self.encoder: Engine = open_engine(self.bundle / "encoder.onnx", settings)
        self.temporal = None if self.contract.is_joint else open_engine(self.bundle / "temporal.onnx", settings)

    def resized(self, video: bytes, num_crops: int) -> NDArray[np.uint8]:
        """``[N, h, w, 3]``: every frame of the video."""
        with av.open(io.BytesIO(video), "r") as container:
            frames = [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in container.decode(video=0)]
        height, width = frames[0].shape[:2]
        size = resized_size(self.contract.resize, height=height, width=width, num_crops=num_crops)
        return np.stack([resize_frame(self.contract.resize, frame, size=size) for frame in frames])

    def view(self, pixels: NDArray[np.uint8], positions: tuple[int, ...]) -> NDArray[np.float32]:
        """One view, uint8 ``[T, S, S, 3]`` -> logits ``[C]``."""
        t, side, _, channels = self.contract.unit_shape
        (encoded,) = self.encoder.run({"UNITS": pixels.reshape(-1, t, side, side, channels)}).values()
        if self.temporal is None:
            return encoded[0]
        n = np.arange(len(encoded), dtype=np.int32)[None]
        feeds = {"FEATURES": encoded, "CLIP_UNITS": n, "CROPS": np.zeros((1, 2), np.int32)}
        if self.contract.geometry.positions:
            feeds["CLIP_POSITIONS"] = np.array([positions], np.int32)
        return self.temporal.run(feeds)["VIEW_LOGITS"][0]

    def views(self, video: bytes, clips: Clips, positions: Clips, num_crops: int) -> NDArray[np.float32]:
        """``[K * R, C]``, clip by clip."""
        frames, side = self.resized(video, num_crops), self.contract.crop.size_px
        height, width = frames.shape[1:3]
        crops = crop_offsets(self.contract.crop, height=height, width=width, num_crops=num_crops).tolist()
        return np.stack(
            [
                self.view(frames[list(clip), y : y + side, x : x + side], told)
                for clip, told in zip(clips, positions, strict=True)
                for y, x in crops
            ]
        )


@pytest.mark.parametrize(
    ("model", "protocol"),
    [("motion", "30x1"), ("motion", "10x3"), ("motion_vtn", "10x3"), ("motion_vtn", "7x1"), ("motion_vidtr", "10x3")],
)
def test_a_shared_view_is_the_view_computed_alone(served: Served, video: bytes, model: str, protocol: str) -> None:
    """One request of 30 views against 30 views of which each has its own pixels, encoder run and temporal run.

    The arithmetic is the same but for the size of the batches, which moves sums of a float32 engine in their last bits;
    a view that got another's features would be off by the difference between views, which is held against it.
    """
    clips = CLIPS[model, protocol]
    found = served.classify(model, video, protocol=protocol)
    alone = Unshared(served.bundles[model])
    within = [tuple(frame - clip[0] for frame in clip) for clip in clips]
    expected = alone.views(video, clips, within, 3 if protocol.endswith("x3") else 1)
    apart = np.abs(found.view_logits - expected).max()
    assert apart <= 1e-5 * np.abs(expected).max()
    nearest = min(np.abs(one - other).max() for one, other in pairwise(expected))
    assert apart < nearest / 10
    logits = average_views(expected, alone.contract.aggregation, alone.contract.heads)
    assert np.abs(found.logits - logits).max() <= (BUDGETS["engine-fp32/torch-fp32"].max_abs_logit or 0) / 10


def test_frames_beyond_the_table_of_positions_begin_it_anew(served: Served, make_video: Callable[..., bytes]) -> None:
    """The demo's VTN knows 96 positions; 300 frames go round them three times (`% 96`, as in its code)."""
    long = make_video(300, fps=FPS, size=(64, 64))
    found = served.classify("motion_vtn", long, protocol="full150")
    alone = Unshared(served.bundles["motion_vtn"])
    clip = tuple(299 * i // 149 for i in range(150))
    frames = alone.resized(long, 1)
    assert frames.shape[1:3] == (56, 56)
    pixels = frames[list(clip), 4:52, 4:52]
    np.testing.assert_allclose(found.view_logits[0], alone.view(pixels, tuple(i % 96 for i in clip)), atol=1e-5)
    clamped = alone.view(pixels, tuple(min(i, 95) for i in clip))
    assert np.abs(found.view_logits[0] - clamped).max() > 1e-3


def test_a_part_is_cut_before_it_is_sampled(served: Served, video: bytes) -> None:
    found = served.classify("motion_vtn", video, protocol="full15", start_s=1, end_s=2)
    clip = [30 + 29 * i // 14 for i in range(15)]
    assert found.frame_times is not None
    assert found.clip_spans is not None
    np.testing.assert_allclose(found.frame_times, [np.array(clip) / FPS], rtol=1e-5)
    np.testing.assert_allclose(found.clip_spans, [[1, 2]], rtol=1e-5)
    assert found.report.units_encoded == 15


def test_the_default_number_of_frames_is_one_of_many(served: Served, video: bytes) -> None:
    named, numbered = (served.classify("motion_vtn", video, protocol=name) for name in ("full", "full32"))
    np.testing.assert_array_equal(named.logits, numbered.logits)
    assert (named.report.protocol, numbered.report.protocol) == ("full", "full32")


@pytest.mark.parametrize(
    ("model", "protocol", "error", "message"),
    [
        ("motion", "22x3", LimitError, "too_many_views: protocol 22x3 asks for 66 views, max_views is 64"),
        ("motion_vtn", "full10000", LimitError, "too_many_views: protocol full10000 asks for 10000 units, max_units"),
        ("motion", "4x2", InvalidRequestError, r"motion has no protocol '4x2'; it has 1x1, 4x3, 10x3, tsn, CxR \(any"),
        ("motion", "full64", InvalidRequestError, "bad_parameter: motion has no protocol 'full64'"),
        ("motion_vtn", "fullN", InvalidRequestError, r"'fullN'; it has .* fullN \(the whole video in any number N of"),
    ],
)
def test_what_is_too_much_or_unknown_is_said(served: Served, video: bytes, model, protocol, error, message) -> None:
    with pytest.raises(error, match=message):
        served.classify(model, video, protocol=protocol)
    assert served.classify(model, video, protocol="21x3").report.views == 63


def test_the_canary_asks_for_the_least_that_a_model_can_do(served: Served) -> None:
    index = RepositoryIndex.load(served.repository)
    assert {model.name: model.canary_protocol for model in index.models} == {
        "motion": "1x1",  # 8 tubelets
        "motion_vtn": "full8",  # 8 frames, half of 1x1
        "motion_vidtr": "1x1",  # one clip
    }
