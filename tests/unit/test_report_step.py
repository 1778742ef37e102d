"""The last step of target `gpu`: what it hands through, what it adds, what it refuses."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from tubelet.spec.errors import DeadlineError, InvalidRequestError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract, Head
from tubelet.spec.tensors import step_tensors

STEPS = "tubelet.server.steps"


@pytest.fixture
def make_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Contract], Any]]:
    """The step of a model, outside Triton."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", MagicMock())

    def make(contract: Contract) -> Any:
        step = importlib.import_module(f"{STEPS}.report").TritonPythonModel()
        step.contract, step.limits, step.metrics = contract, Limits(), MagicMock()
        step.labels, step.product_labels = ["one", "two"], ["a, x", "a, y", "b, x", "b, y"]
        return step

    yield make
    for name in [name for name in sys.modules if name.startswith(STEPS) or name == "tubelet.server.metrics"]:
        sys.modules.pop(name)


def run(step: Any, inputs: dict[str, Any], *wanted: str) -> Any:
    base = importlib.import_module(f"{STEPS}.base")
    return step.run(base.Call(inputs, {}, frozenset(wanted), lambda: False))


def answer(milliseconds: dict[str, float] | None = None, **changes: Any) -> dict[str, Any]:
    report = {
        "protocol": "4x3",
        "warnings": [],
        "units_encoded": 7,
        "milliseconds": {"decode": 1.0, "resize": 2.0, **(milliseconds or {})},
        "started": 10.0,
        "ended": 11.0,
    }
    return {
        "LOGITS": np.array([1, 2], np.float32),
        "PROBABILITIES": np.array([0.25, 0.75], np.float32),
        "VIEW_LOGITS": np.zeros((3, 2), np.float32),
        "SAMPLE_REPORT": np.array([json.dumps(report).encode()], np.object_),
        "DEADLINE": np.array([math.inf]),
        **changes,
    }


def test_what_comes_from_the_card_is_handed_through(make_step, make_contract) -> None:
    contract, given = make_contract(), answer()
    outputs = run(make_step(contract), given)
    assert set(outputs) == {spec.name for spec in step_tensors(contract, "gpu")["report"][1]}
    for name in ("LOGITS", "PROBABILITIES", "VIEW_LOGITS"):
        assert outputs[name] is given[name]
    assert outputs["AFTER"].tolist() == [math.inf]
    report = json.loads(outputs["REPORT"][0])
    assert list(report) == ["protocol", "warnings", "units_encoded", "milliseconds", "contract_digest", "top"]
    assert report["contract_digest"] == contract.digest
    assert report["top"] == {"two": 0.75, "one": 0.25}


@pytest.mark.parametrize(("said", "counted"), [({}, [7]), ({"gpu": 5.0}, [])])
def test_times_and_units_are_counted_once(make_step, make_contract, said, counted) -> None:
    """A first step that has units encoded as they come says how long the card took, and has counted them."""
    step = make_step(make_contract())
    report = json.loads(run(step, answer(said))["REPORT"][0])["milliseconds"]
    assert list(report) == ["decode", "resize", "gpu", "total"]
    assert report["total"] - report["gpu"] == pytest.approx(1000 - said.get("gpu", 0))
    assert [call.args[1] for call in step.metrics.add.call_args_list] == counted


def test_features_are_put_together_for_those_who_ask(make_step, make_vtn_contract) -> None:
    rows = np.repeat(np.arange(9, dtype=np.float32)[:, None], 8, axis=1)
    clips = np.array([[0, 2], [1, 1]], np.int32)
    given = answer(FEATURES=rows, CLIP_UNITS=clips, CLIP_POSITIONS=clips + 5, CROPS=np.zeros((3, 2), np.int32))
    step = make_step(make_vtn_contract())
    assert not {"FEATURES", "POSITIONS"} & set(run(step, given))
    outputs = run(step, given, "FEATURES", "POSITIONS")
    assert outputs["FEATURES"][:, :, 0].tolist() == [[0, 6], [1, 7], [2, 8], [3, 3], [4, 4], [5, 5]]
    assert outputs["POSITIONS"].tolist() == [[5, 7]] * 3 + [[6, 6]] * 3
    with pytest.raises(InvalidRequestError, match="CLIP_UNITS must name units from 0 to 2"):
        run(step, given | {"CLIP_UNITS": clips + 2}, "FEATURES")


def test_heads_have_a_product(make_step, make_contract) -> None:
    heads = tuple(
        Head(name=name, num_classes=2, activation="softmax", labels_sha256="0" * 64) for name in ("noun", "verb")
    )
    contract = replace(make_contract(), heads=heads, product="action")
    step = make_step(contract)
    step.labels = ["noun: a", "noun: b", "verb: x", "verb: y"]
    shares = np.array([0.9, 0.1, 0.2, 0.8], np.float32)
    product = np.array([0.18, 0.72, 0.02, 0.08], np.float32)
    outputs = run(step, answer(LOGITS=shares, PROBABILITIES=shares, PRODUCT=product))
    assert set(outputs) == {spec.name for spec in step_tensors(contract, "gpu")["report"][1]}
    assert next(iter(json.loads(outputs["REPORT"][0])["top_action"])) == "a, y"


def test_an_answer_that_nobody_waits_for_is_not_given(make_step, make_contract) -> None:
    with pytest.raises(DeadlineError, match="deadline_exceeded"):
        run(make_step(make_contract()), answer(DEADLINE=np.array([1e-9])))
