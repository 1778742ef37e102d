"""What the first step gives is what the table of tensors promises; what the temporal step refuses."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from tubelet.spec.errors import InvalidRequestError, LimitError, TubeletError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.tensors import step_tensors

STEPS = "tubelet.server.steps"
MODULES = (f"{STEPS}.sample", f"{STEPS}.temporal", f"{STEPS}.base", "tubelet.server.metrics")
DTYPES = {"UINT8": np.uint8, "INT32": np.int32, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_}


@pytest.fixture
def make_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """A step of a model, outside Triton, whose module for backends exists in its own processes only."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", MagicMock())

    def make(contract: Contract, name: str = "sample") -> Any:
        step = importlib.import_module(f"{STEPS}.{name}").TritonPythonModel()
        step.contract, step.limits, step.metrics = contract, Limits(), MagicMock()
        return step

    yield make
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("family", "protocol", "frames_per_clip"), [("vivit", "4x3", 4), ("vtn", "10x3", 16), ("vtn", "full", 250)]
)
@pytest.mark.parametrize("decoded", [False, True])
def test_the_step_gives_the_tensors_of_the_table(
    family, protocol, frames_per_clip, decoded, make_step, make_contract, make_vtn_contract, make_video
):
    contract = make_contract() if family == "vivit" else make_vtn_contract()
    inputs: dict[str, Any] = {"VIDEO": np.array([make_video(30)], dtype=np.object_)}
    if decoded:
        inputs = {"FRAMES": np.zeros((30, 80, 120, 3), np.uint8), "FPS": np.array([25], np.float32)}
    outputs = make_step(contract).run(inputs, {"protocol": protocol})
    _, specs = step_tensors(contract)["sample"]
    assert list(outputs) == [spec.name for spec in specs]
    assert ("CLIP_POSITIONS" in outputs) == (family == "vtn")
    for spec in specs:
        array = outputs[spec.name]
        assert array.dtype == DTYPES[spec.dtype], spec.name
        assert array.ndim == len(spec.shape), spec.name
        assert all(size in (-1, found) for size, found in zip(spec.shape, array.shape, strict=True)), spec.name
    num_clips = len(outputs["CLIP_UNITS"])
    assert outputs["FRAME_TIMES"].shape == (num_clips, frames_per_clip)
    report = json.loads(outputs["SAMPLE_REPORT"][0])
    assert report["protocol"] == protocol
    assert report["units_wanted"] == outputs["CLIP_UNITS"].size * len(outputs["CROPS"])
    assert report["units_encoded"] == len(outputs["UNIT_FRAMES"]) * len(outputs["CROPS"])


@pytest.mark.parametrize(
    ("clip_units", "clip_positions", "num_crops", "error", "message"),
    [
        ((1, 251), (1, 251), 1, LimitError, "clips of 251 units came, the model's have 250"),
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
    inputs = {
        "FEATURES": np.zeros((3, 8), np.float32),
        "CLIP_UNITS": np.zeros(clip_units, np.int32),
        "CLIP_POSITIONS": np.zeros(clip_positions, np.int32),
        "CROPS": np.zeros((num_crops, 2), np.int32),
    }
    with pytest.raises(error, match=message):
        step.run(inputs, {})
    step.engine.run.assert_not_called()


def test_the_temporal_step_takes_the_longest_clip(make_step, make_vtn_contract):
    step = make_step(make_vtn_contract(), "temporal")
    step.engine = MagicMock()
    clip = np.zeros((1, 250), np.int32)
    crops, features = np.zeros((1, 2), np.int32), np.zeros((3, 8), np.float32)
    step.run({"FEATURES": features, "CLIP_UNITS": clip, "CLIP_POSITIONS": clip, "CROPS": crops}, {})
    step.engine.run.assert_called_once()
