"""What the first steps give is what the table of tensors promises; what the steps refuse; when they stop."""

import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from numpy.typing import NDArray

from tubelet.preprocess.decode import Reading
from tubelet.preprocess.decoders import PYAV
from tubelet.spec.errors import (
    DeadlineError,
    InvalidRequestError,
    LimitError,
    OverloadedError,
    TubeletError,
    UnavailableError,
)
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.tensors import step_tensors

STEPS = "tubelet.server.steps"
NAMES = ("sample", "units", "chunks", "temporal", "average", "report", "answers", "videos", "backlog", "base")
MODULES = (*(f"{STEPS}.{name}" for name in NAMES), "tubelet.server.metrics")
DTYPES = {"UINT8": np.uint8, "INT32": np.int32, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_}
OVER = 1e-9
"""A moment of the monotonic clock that has passed."""


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[MagicMock]:
    """Triton's module for backends, which exists in its own processes only."""
    module = MagicMock()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)
    yield module
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def make_step(triton: MagicMock) -> Callable[..., Any]:
    """A step of a model, outside Triton."""

    def make(contract: Contract, name: str = "sample", limits: Limits | None = None) -> Any:
        step = importlib.import_module(f"{STEPS}.{name}").TritonPythonModel()
        step.contract, step.limits, step.metrics, step.backlog = contract, limits or Limits(), MagicMock(), MagicMock()
        return step

    return make


def run(
    step: Any,
    inputs: Mapping[str, Any],
    parameters: dict[str, object] | None = None,
    *,
    wanted: tuple[str, ...] = (),
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Any:
    base = importlib.import_module(f"{STEPS}.base")
    return step.run(base.Call(inputs, parameters or {}, frozenset(wanted), is_cancelled))


def assert_fits(outputs: dict[str, NDArray[Any]], contract: Contract, step: Any) -> None:
    _, specs = step_tensors(contract)[step]
    assert list(outputs) == [spec.name for spec in specs]
    for spec in specs:
        array = outputs[spec.name]
        assert array.dtype == DTYPES[spec.dtype], spec.name
        assert array.ndim == len(spec.shape), spec.name
        assert all(size in (-1, found) for size, found in zip(spec.shape, array.shape, strict=True)), spec.name


def of_video(video: bytes) -> dict[str, NDArray[Any]]:
    return {"VIDEO": np.array([video], dtype=np.object_)}


@pytest.mark.parametrize(
    ("family", "protocol", "frames_per_clip"), [("vivit", "4x3", 4), ("vtn", "10x3", 16), ("vtn", "full", 250)]
)
@pytest.mark.parametrize("decoded", [False, True])
def test_the_step_gives_the_tensors_of_the_table(
    family, protocol, frames_per_clip, decoded, make_step, make_contract, make_vtn_contract, make_video
):
    contract = make_contract() if family == "vivit" else make_vtn_contract()
    inputs: dict[str, Any] = of_video(make_video(30))
    if decoded:
        inputs = {"FRAMES": np.zeros((30, 80, 120, 3), np.uint8), "FPS": np.array([25], np.float32)}
    outputs = run(make_step(contract), inputs, {"protocol": protocol})
    assert_fits(outputs, contract, "sample")
    assert ("CLIP_POSITIONS" in outputs) == (family == "vtn")
    num_clips = len(outputs["CLIP_UNITS"])
    assert outputs["FRAME_TIMES"].shape == (num_clips, frames_per_clip)
    assert outputs["CLIP_SPANS"].shape == (num_clips, 2)
    report = json.loads(outputs["SAMPLE_REPORT"][0])
    assert report["protocol"] == protocol
    assert report["units_wanted"] == outputs["CLIP_UNITS"].size * len(outputs["CROPS"])
    assert report["units_encoded"] == len(outputs["UNIT_FRAMES"]) * len(outputs["CROPS"])


def test_a_member_keeps_the_deadline_of_the_one_before(make_step, make_contract, make_video):
    video = of_video(make_video(30))
    outputs = run(make_step(make_contract()), video | {"AFTER": np.array([math.inf])}, {"deadline_ms": 0.001})
    assert outputs["DEADLINE"].tolist() == [math.inf]
    with pytest.raises(DeadlineError):
        run(make_step(make_contract()), video | {"AFTER": np.array([OVER])})


def test_what_cannot_be_done_in_half_of_its_time_is_refused_before_it_is_decoded(make_step, make_contract, make_video):
    step, before = make_step(make_contract()), time.monotonic()
    run(step, of_video(make_video(30)), {"protocol": "4x3", "deadline_ms": 100_000})
    (deadline,), asked = step.backlog.wait.call_args
    assert before + 100 <= deadline <= time.monotonic() + 100
    assert asked["until"] == deadline - 50
    assert asked["units"] == 4 * 3 * step.contract.units_per_clip
    assert asked["decode_s"] == 0 < step.decode_s
    run(step, of_video(make_video(30)) | {"AFTER": np.array([deadline])}, {"deadline_ms": 100_000})
    assert step.backlog.wait.call_args.kwargs["until"] == deadline, "all of its time that is left is known"

    step.backlog.wait.side_effect, expected_s = OverloadedError("overloaded", "too late"), step.decode_s
    with pytest.raises(OverloadedError):
        run(step, {}, {})
    assert 0 < step.decode_s < expected_s, "or one long video had all others refused"


def test_decoded_frames_keep_to_the_deadline_too(make_step, make_contract):
    frames = {"FRAMES": np.zeros((30, 80, 120, 3), np.uint8), "FPS": np.array([25], np.float32)}
    with pytest.raises(DeadlineError):
        run(make_step(make_contract()), frames, {"deadline_ms": 0.0001})


class Card:
    """Decodes as the processor does, and says what a card would."""

    def __init__(self, decoder: str, refusal: str) -> None:
        self.decoder, self.refusal = decoder, refusal
        self.open = PYAV.open

    def read_frames(self, *args: Any, **kwargs: Any) -> Reading:
        return replace(PYAV.read_frames(*args, **kwargs), decoder=self.decoder, refusal=self.refusal)


@pytest.mark.parametrize(("decoder", "refusal"), [("nvdec", ""), ("pyav", "codec"), ("pyav", "")])
@pytest.mark.parametrize("name", ["sample", "chunks"])
def test_who_decoded_is_counted(name, decoder, refusal, chunks, make_step, make_video):
    step = chunks[0] if name == "chunks" else make_step(chunks[0].contract)
    step.decoder = Card(decoder, refusal)
    run(step, of_video(make_video(30)))
    counted = {call.args[0]: call.args[1] for call in step.metrics.add.call_args_list}
    assert counted["tubelet_videos_total"] == 1
    assert counted.get("tubelet_gpu_decoded_videos_total", 0) == (decoder == "nvdec")
    assert [call.args for call in step.metrics.count_fallback.call_args_list] == [(refusal,)] * bool(refusal)


@pytest.mark.parametrize("name", ["sample", "chunks"])
def test_the_decoder_is_the_repositorys(name, make_step, make_contract, monkeypatch):
    step = make_step(make_contract(), name)
    step.parameters = {"largest_batch": "4"}
    step.open()
    assert step.decoder is PYAV
    card = Card("nvdec", "")
    monkeypatch.setattr("tubelet.preprocess.decoders.open_nvdec", lambda: card)
    step.parameters = {"largest_batch": "4", "decoder": "nvdec"}
    step.open()
    assert step.decoder is card


@pytest.mark.parametrize(
    ("clip_units", "clip_positions", "num_crops", "error", "message"),
    [
        ((1, 251), (1, 251), 1, LimitError, "clips of 251 units came, 250 are allowed"),
        ((65, 1), (65, 1), 1, LimitError, "65 views came"),
        ((22, 1), (22, 1), 3, LimitError, "66 views came"),
        ((1, 4), (1, 3), 1, InvalidRequestError, "CLIP_POSITIONS must give"),
        ((1, 4), (1, 4), 0, InvalidRequestError, "at least one view"),
        ((1, 0), (1, 0), 1, InvalidRequestError, "CLIP_UNITS must name units"),
    ],
)
def test_the_temporal_step_holds_its_limits_by_itself(
    clip_units, clip_positions, num_crops, error: type[TubeletError], message, make_step, make_vtn_contract
):
    """It can be called without the sample step."""
    step = make_step(make_vtn_contract(), "temporal")
    step.engine = MagicMock()
    with pytest.raises(error, match=message):
        run(step, views(np.zeros(clip_units, np.int32), num_crops, positions=np.zeros(clip_positions, np.int32)))
    step.engine.run.assert_not_called()


def views(
    clip_units: NDArray[np.int32], num_crops: int, *, positions: NDArray[np.int32] | None = None, num_units: int = 3
) -> dict[str, NDArray[Any]]:
    """What the temporal step takes; feature ``[u * R + r]`` is full of that number."""
    rows = np.arange(num_units * max(1, num_crops), dtype=np.float32)
    return {
        "FEATURES": np.repeat(rows[:, None], 8, axis=1),
        "CLIP_UNITS": clip_units,
        "CLIP_POSITIONS": clip_units if positions is None else positions,
        "CROPS": np.zeros((num_crops, 2), np.int32),
        "DEADLINE": np.array([0.0]),
    }


class Adding:
    """An engine whose logits of a view are the sums of its features and of its positions."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.sizes.append(feeds["CLIP_UNITS"].size * len(feeds["CROPS"]))
        num_crops = len(feeds["CROPS"])
        rows = feeds["CLIP_UNITS"][:, None] * num_crops + np.arange(num_crops)[None, :, None]  # [K, R, n]
        features = feeds["FEATURES"][rows.reshape(-1, rows.shape[2])]
        positions = np.repeat(feeds["CLIP_POSITIONS"], num_crops, axis=0)
        logits = np.stack((features.sum(axis=(1, 2)), positions.sum(axis=1)), axis=1)
        return {"VIEW_LOGITS": logits.astype(np.float32), "ATTENTION": features[:, :, 0]}


def test_the_temporal_step_takes_the_longest_clip(make_step, make_vtn_contract):
    step = make_step(make_vtn_contract(), "temporal")
    step.engine = Adding()
    run(step, views(np.zeros((1, 250), np.int32), 1))
    assert step.engine.sizes == [250]
    any_number = replace(make_vtn_contract(), protocols=("full", "fullN"))
    step = make_step(any_number, "temporal", Limits(max_units=400))
    step.engine = Adding()
    run(step, views(np.zeros((1, 400), np.int32), 1))
    with pytest.raises(LimitError, match="clips of 401 units came, 400 are allowed"):
        run(step, views(np.zeros((1, 401), np.int32), 1))


@pytest.mark.parametrize(("group_units", "sizes"), [(10_000, [120]), (50, [48, 48, 24]), (1, [24] * 5)])
def test_views_are_equal_whatever_the_groups(make_step, make_vtn_contract, monkeypatch, group_units, sizes):
    step = make_step(make_vtn_contract(), "temporal")
    step.engine = Adding()
    monkeypatch.setattr(importlib.import_module(f"{STEPS}.temporal"), "GROUP_UNITS", group_units)
    clips = np.random.default_rng(0).integers(0, 7, (5, 8)).astype(np.int32)
    inputs = views(clips, 3, positions=clips * 2, num_units=7)
    outputs = run(step, inputs)
    assert step.engine.sizes == sizes
    for name, whole in Adding().run(inputs).items():
        np.testing.assert_array_equal(outputs[name], whole)


def test_features_are_given_to_those_who_ask(make_step, make_vtn_contract):
    step = make_step(make_vtn_contract(), "temporal")
    step.engine = Adding()
    inputs = views(np.array([[0, 2], [1, 1]], np.int32), 3, positions=np.array([[5, 6], [7, 8]], np.int32))
    assert set(run(step, inputs)) == {"VIEW_LOGITS", "ATTENTION"}
    outputs = run(step, inputs, wanted=("FEATURES", "POSITIONS", "VIEW_LOGITS", "ATTENTION"))
    assert outputs["FEATURES"].shape == (6, 2, 8)
    assert outputs["FEATURES"][:, :, 0].tolist() == [[0, 6], [1, 7], [2, 8], [3, 3], [4, 4], [5, 5]]
    assert outputs["POSITIONS"].tolist() == [[5, 6]] * 3 + [[7, 8]] * 3


def test_the_temporal_step_stops_between_groups(make_step, make_vtn_contract, monkeypatch):
    monkeypatch.setattr(importlib.import_module(f"{STEPS}.temporal"), "GROUP_UNITS", 1)
    clips = np.zeros((5, 8), np.int32)
    step, inputs = make_step(make_vtn_contract(), "temporal"), views(clips, 1)
    step.engine = Adding()
    with pytest.raises(DeadlineError, match="cancelled"):
        run(step, inputs, is_cancelled=lambda: len(step.engine.sizes) == 2)
    assert step.engine.sizes == [8, 8]
    with pytest.raises(DeadlineError, match="deadline_exceeded"):
        run(step, inputs | {"DEADLINE": np.array([OVER])})
    assert step.engine.sizes == [8, 8]


class EncoderOfMeans:
    """Stands for Triton's call of the encoder's step: the feature of a unit is the mean of its pixels, eight times."""

    def __init__(self, triton: MagicMock) -> None:
        triton.Tensor = self.Tensor
        triton.InferenceRequest = self.request
        self.sizes: list[int] = []
        self.error: str | None = None

    class Tensor:
        def __init__(self, name: str, array: NDArray[Any]) -> None:
            self.name, self.as_numpy = (lambda: name), (lambda: array)

    def request(
        self, *, model_name: str, requested_output_names: list[str], inputs: list[Any], preferred_memory: Any
    ) -> Any:
        assert model_name == "clips_vtn_encoder"
        units, *deadlines = (tensor.as_numpy() for tensor in inputs)
        assert [array.shape for array in deadlines] == [(len(units), 1)] * ("ENCODED_AT" in requested_output_names)
        self.sizes.append(len(units))
        features = np.repeat(units.mean(axis=(1, 2, 3, 4), dtype=np.float32)[:, None], 8, axis=1)
        found = {"FEATURES": features, "ENCODED_AT": np.tile([1.0, 1.25], (len(units), 1))}
        response = MagicMock()
        response.has_error.return_value = self.error is not None
        response.error().message.return_value = self.error
        response.output_tensors.return_value = [self.Tensor(name, found[name]) for name in requested_output_names]
        return MagicMock(exec=lambda: response)


@pytest.fixture
def chunks(make_step, make_vtn_contract, triton) -> tuple[Any, EncoderOfMeans]:
    contract = replace(make_vtn_contract(), name="clips_vtn", protocols=("CxR", "full", "fullN"))
    step = make_step(contract, "chunks", Limits(max_units=250))
    step.largest_batch = 16
    return step, EncoderOfMeans(triton)


@pytest.mark.parametrize("protocol", ["10x3", "1x1", "full", "full7"])
def test_chunks_give_what_sample_units_and_encoder_give(chunks, protocol, make_step, make_video):
    step, encoder = chunks
    video, contract = of_video(make_video(100)), step.contract
    outputs = run(step, video, {"protocol": protocol})
    assert_fits(outputs, contract, "chunks")
    sampled = run(make_step(contract, "sample"), video, {"protocol": protocol})
    units = run(make_step(contract, "units"), sampled)["UNITS"]
    features = units.mean(axis=(1, 2, 3, 4), dtype=np.float32)
    np.testing.assert_array_equal(outputs["FEATURES"], np.repeat(features[:, None], 8, axis=1))
    for name in ("CLIP_UNITS", "CLIP_POSITIONS", "CROPS", "FRAME_TIMES", "CLIP_SPANS"):
        np.testing.assert_array_equal(outputs[name], sampled[name])
    assert encoder.sizes == [16] * (len(units) // 16) + [len(units) % 16] * bool(len(units) % 16)
    report, alike = (json.loads(tensors["SAMPLE_REPORT"][0]) for tensors in (outputs, sampled))
    for name in ("protocol", "frames", "views", "units_wanted", "units_encoded", "warnings"):
        assert report[name] == alike[name], name
    assert report["milliseconds"]["encoder"] == 250.0 * len(encoder.sizes)
    counted = {call.args[0]: call.args[1] for call in step.metrics.add.call_args_list}
    assert counted["tubelet_units_wanted_total"] == report["units_wanted"]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("in ensemble 'x', deadline_exceeded: over", DeadlineError),
        ("Model clips_vtn_encoder is not ready", UnavailableError),
    ],
)
def test_an_encoder_that_fails_ends_the_work(chunks, said, error, make_video):
    step, encoder = chunks
    encoder.error = said
    with pytest.raises(error):
        run(step, of_video(make_video(100)), {"protocol": "10x3"})
    assert encoder.sizes == [16]


def test_a_caller_that_goes_stops_the_decoding_within_a_batch(chunks, make_video):
    step, encoder = chunks
    with pytest.raises(DeadlineError, match="cancelled"):
        run(step, of_video(make_video(100)), {"protocol": "10x3"}, is_cancelled=lambda: len(encoder.sizes) == 2)
    assert encoder.sizes == [16, 16]


def features_of(num_views: int, n: int, **changes: NDArray[Any]) -> dict[str, NDArray[Any]]:
    features = np.random.default_rng(0).random((num_views, n, 8), np.float32)
    return {"FEATURES": features, "POSITIONS": np.tile(np.arange(n, dtype=np.int32), (num_views, 1))} | changes


def test_features_become_clips_of_one_crop(chunks):
    step, encoder = chunks
    given = features_of(6, 5)
    outputs = run(step, given, {"deadline_ms": 1000})
    _, specs = step_tensors(step.contract)["chunks"]
    assert [spec.name for spec in specs if spec.name in outputs] == list(outputs)
    np.testing.assert_array_equal(outputs["FEATURES"][outputs["CLIP_UNITS"]], given["FEATURES"])
    np.testing.assert_array_equal(outputs["CLIP_POSITIONS"], given["POSITIONS"])
    assert outputs["CROPS"].shape == (1, 2)
    report = json.loads(outputs["SAMPLE_REPORT"][0])
    assert (report["protocol"], report["views"]) == ("features", 6)
    assert (report["units_wanted"], report["units_encoded"], report["frames_decoded"]) == (30, 0, 0)
    assert encoder.sizes == []
    counted = {call.args[0]: call.args[1] for call in step.metrics.add.call_args_list}
    assert counted == {"tubelet_units_wanted_total": 30, "tubelet_features_reused_total": 30}


NOT_A_NUMBER = np.full((2, 5, 8), np.nan, np.float32)


@pytest.mark.parametrize(
    ("given", "parameters", "error", "message"),
    [
        (
            features_of(2, 5),
            {"protocol": "4x3"},
            InvalidRequestError,
            "protocol cannot be heeded; there is deadline_ms",
        ),
        (features_of(2, 5), {"start_s": 1, "end_s": 2}, InvalidRequestError, "end_s, start_s cannot be heeded"),
        (features_of(2, 5), {"deadline_ms": -1}, InvalidRequestError, "deadline_ms must be positive"),
        (features_of(2, 5, FEATURES=NOT_A_NUMBER), {}, InvalidRequestError, "FEATURES must be finite"),
        (features_of(2, 0), {}, InvalidRequestError, "one unit or more in each view"),
        (features_of(0, 5), {}, InvalidRequestError, "at least one view"),
        (features_of(65, 1), {}, LimitError, "max_views is 64"),
        (features_of(1, 251), {}, LimitError, "1 views of 251 units came; a view has at most 250"),
        (features_of(5, 250), {}, LimitError, "all views together at most 1024"),
        (features_of(2, 5, POSITIONS=np.zeros((2, 4), np.int32)), {}, InvalidRequestError, "POSITIONS must give"),
        (features_of(2, 5, POSITIONS=np.full((2, 5), -1, np.int32)), {}, InvalidRequestError, "POSITIONS must give"),
        ({"FEATURES": np.zeros((2, 5, 8), np.float32)}, {}, InvalidRequestError, "POSITIONS must give"),
        ({}, {}, InvalidRequestError, "expected the input VIDEO, or FEATURES"),
        (features_of(2, 5) | of_video(b""), {}, InvalidRequestError, "expected the input VIDEO, or FEATURES"),
    ],
)
def test_features_that_cannot_be_are_refused(chunks, given, parameters, error: type[TubeletError], message):
    step, _ = chunks
    with pytest.raises(error, match=message):
        run(step, given, parameters)


def test_the_parameters_of_a_video_hold_in_chunks(chunks, make_video):
    step, encoder = chunks
    video = of_video(make_video(100))
    with pytest.raises(InvalidRequestError, match="no frame lies between"):
        run(step, video, {"start_s": 50})
    with pytest.raises(LimitError, match="max_views"):
        run(step, video, {"protocol": "100x1"})
    with pytest.raises(DeadlineError):
        run(step, video, {"deadline_ms": 0.001})
    assert encoder.sizes == []
    part = run(step, video, {"protocol": "full7", "start_s": 1, "end_s": 2})
    assert part["CLIP_SPANS"][0, 0] >= 1
    assert json.loads(part["SAMPLE_REPORT"][0])["frames"] == 25


def test_the_last_step_hands_the_deadline_on_and_adds_the_times_up(make_step, make_vtn_contract):
    step = make_step(make_vtn_contract(), "average")
    step.labels = ["one", "two"]
    report = {"milliseconds": {"decode": 1.0, "resize": 2.0}, "started": 10.0, "ended": 11.0}
    inputs = {
        "VIEW_LOGITS": np.zeros((3, 2), np.float32),
        "ENCODED_AT": np.array([[11.5, 12.0]]),
        "DEADLINE": np.array([math.inf]),
    }
    for said, units, encoder in (({}, 500.0, 500.0), ({"units": 7.0, "encoder": 8.0}, 7.0, 8.0)):
        text = json.dumps(report | {"milliseconds": {"decode": 1.0, "resize": 2.0} | said})
        outputs = run(step, inputs | {"SAMPLE_REPORT": np.array([text.encode()], np.object_)})
        assert outputs["AFTER"].tolist() == [math.inf]
        found = json.loads(outputs["REPORT"][0])["milliseconds"]
        assert list(found) == ["decode", "resize", "units", "encoder", "average", "total"]
        assert (found["units"], found["encoder"]) == (units, encoder)
    with pytest.raises(DeadlineError):
        run(step, inputs | {"DEADLINE": np.array([OVER])})
