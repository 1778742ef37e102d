"""What the first step gives is what the table of tensors promises, whatever the family."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract
from tubelet.spec.tensors import step_tensors

MODULES = ("tubelet.server.steps.sample", "tubelet.server.steps.base", "tubelet.server.metrics")
DTYPES = {"UINT8": np.uint8, "INT32": np.int32, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_}


@pytest.fixture
def make_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Contract], Any]]:
    """The step of a model, outside Triton, whose module for backends exists in its own processes only."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", MagicMock())
    module = importlib.import_module(MODULES[0])

    def make(contract: Contract) -> Any:
        step = module.TritonPythonModel()
        step.contract, step.limits, step.metrics = contract, Limits(), MagicMock()
        return step

    yield make
    for name in MODULES:
        del sys.modules[name]


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
