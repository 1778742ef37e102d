"""Triton's answer becomes a `Classification`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_triton import NAMES, REPORT, add_strings, add_tensor, contract, response
from tritonclient.grpc import InferResult, service_pb2

from tubelet.clients.results import Classification, read_classification
from tubelet.spec.errors import ContractError
from tubelet.spec.tensors import answer_names

float32s = st.floats(-50, 50, width=32)


def read(answer: service_pb2.ModelInferResponse, *, top: int = 4, activation: str = "softmax") -> Classification:
    promise = contract(activation=activation)
    return read_classification(
        InferResult(answer), contract=promise, asked=answer_names(promise), top=top, round_trip_ms=12.0
    )


def without(name: str) -> service_pb2.ModelInferResponse:
    whole = response([1.0, 2.0, 3.0, 4.0])
    index = [output.name for output in whole.outputs].index(name)
    del whole.outputs[index]
    del whole.raw_output_contents[index]
    return whole


def test_every_field_comes_from_its_tensor() -> None:
    found = read(response([0.0, 0.0, 2.0, 1.0], top=2), top=2)
    assert found.model == "demo"
    assert [label.name for label in found.labels] == ["up: the sky", "down"]
    assert found.view_logits.shape == (1, 4)
    assert found.frame_times is not None
    assert found.frame_times.shape == (1, 8)
    assert found.clip_spans is not None
    assert found.clip_spans.tolist() == [[0, 1]]
    assert (found.features, found.positions) == (None, None)
    assert found.report.units_encoded == 3
    assert found.report.milliseconds["encoder"] == 4.0
    assert found.network_ms == 12.0 - 9.25


def test_an_answer_without_views_has_none() -> None:
    promise, answer = contract(), response([0.0, 0.0, 2.0, 1.0])
    for name in ("VIEW_LOGITS", "FRAME_TIMES", "CLIP_SPANS"):
        index = [output.name for output in answer.outputs].index(name)
        del answer.outputs[index]
        del answer.raw_output_contents[index]
    asked = answer_names(promise, with_views=False)
    assert asked == ("LOGITS", "PROBABILITIES", "REPORT")
    found = read_classification(InferResult(answer), contract=promise, asked=asked, top=4, round_trip_ms=12.0)
    assert found.view_logits.shape == (0, 4)
    assert (found.frame_times, found.clip_spans, found.attention) == (None, None, None)
    assert [label.index for label in found.labels] == [2, 3, 0, 1]
    assert json.loads(json.dumps(found.to_json()))["view_logits"] == []


def test_a_label_of_no_class_is_passed_over() -> None:
    answer = without("PROBABILITIES")
    add_strings(answer, "PROBABILITIES", [b"0.643914:3:down", b"0.236883:4:nothing"])
    assert [label.name for label in read(answer).labels] == ["down"]


@given(logits=st.lists(float32s, min_size=4, max_size=4), top=st.integers(1, 4))
def test_probabilities_are_exact_ordered_and_name_the_argmax(logits: list[float], top: int) -> None:
    found = read(response(logits, top=top), top=top)
    shares = [label.probability for label in found.labels]
    assert len(shares) == top
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-12
    if top == 4:
        assert sum(shares) == pytest.approx(1, abs=1e-12)
        assert found.labels[0].index == int(np.argmax(found.logits))
        order = np.argsort(-found.logits.astype(np.float64), kind="stable")
        assert [found.logits[label.index] for label in found.labels] == found.logits[order].tolist()
    for label in found.labels:
        assert label.name == NAMES[label.index]


@given(logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4))
def test_a_sigmoid_head_judges_each_class_alone_and_never_overflows(logits: list[float]) -> None:
    found = read(response(logits), activation="sigmoid")
    for label in found.labels:
        exact = 1 / (1 + np.exp(-np.longdouble(np.float32(logits[label.index]))))
        assert label.probability == pytest.approx(float(exact), abs=1e-15)


def test_a_class_without_a_name_is_called_by_its_index() -> None:
    answer = without("PROBABILITIES")
    add_strings(answer, "PROBABILITIES", [b"0.643914:3", b"0.236883:2:"])
    assert [label.name for label in read(answer).labels] == ["3", "2"]


def test_the_json_form_is_plain_and_complete() -> None:
    answer = without("FRAME_TIMES")
    add_tensor(answer, "FRAME_TIMES", np.array([[0, 1, 2, 3, np.nan, 5, np.inf, 7]], dtype=np.float32))
    data = json.loads(json.dumps(read(answer).to_json(), allow_nan=False))
    assert data["frame_times"] == [[0, 1, 2, 3, None, 5, None, 7]]
    assert data["labels"][0] == {"name": "down", "index": 3, "probability": pytest.approx(0.6439142598)}
    assert data["report"]["frames_decoded"] == 12
    assert data["network_ms"] == data["round_trip_ms"] - data["report"]["milliseconds"]["total"]
    assert set(data) == {
        "model",
        "labels",
        "logits",
        "view_logits",
        "frame_times",
        "clip_spans",
        "attention",
        "product",
        "report",
        "round_trip_ms",
        "network_ms",
    }


@pytest.mark.parametrize("name", ["LOGITS", "VIEW_LOGITS", "FRAME_TIMES", "CLIP_SPANS", "PROBABILITIES", "REPORT"])
def test_a_missing_tensor_is_a_broken_contract(name: str) -> None:
    with pytest.raises(ContractError, match=name):
        read(without(name))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("LOGITS", np.zeros(5, np.float32)),
        ("LOGITS", np.array([0, np.nan, 0, 0], np.float32)),
        ("VIEW_LOGITS", np.zeros(4, np.float32)),
        ("FRAME_TIMES", np.zeros(8, np.float32)),
        ("CLIP_SPANS", np.zeros((1, 3), np.float32)),
        ("PROBABILITIES", np.zeros(4, np.float32)),
    ],
)
def test_another_shape_or_type_is_a_broken_contract(name: str, array: Any) -> None:
    answer = without(name)
    add_tensor(answer, name, array)
    with pytest.raises(ContractError, match=name):
        read(answer)


@pytest.mark.parametrize(
    "text", [b"{", b"[]", json.dumps(REPORT | {"milliseconds": {}}).encode(), json.dumps({"views": 1}).encode()]
)
def test_a_report_that_cannot_be_read_is_a_broken_contract(text: bytes) -> None:
    answer = without("REPORT")
    add_strings(answer, "REPORT", [text])
    with pytest.raises(ContractError, match="REPORT"):
        read(answer)


def test_labels_of_another_form_are_a_broken_contract() -> None:
    answer = without("PROBABILITIES")
    add_strings(answer, "PROBABILITIES", [b"left"])
    with pytest.raises(ContractError, match="label"):
        read(answer)


def test_a_report_may_tell_the_duration_and_the_contract() -> None:
    said = REPORT | {"duration_s": 1.5, "contract_digest": contract().digest}
    report = read(response([1.0, 0.0, 0.0, 0.0], report=said)).report
    assert (report.duration_s, report.contract_digest) == (1.5, contract().digest)
    assert read(response([1.0, 0.0, 0.0, 0.0], report=said | {"duration_s": None})).report.duration_s is None


def test_an_older_server_tells_neither() -> None:
    assert not {"duration_s", "contract_digest"} & set(REPORT)
    report = read(response([1.0, 0.0, 0.0, 0.0])).report
    assert (report.duration_s, report.contract_digest) == (None, contract().digest)


def test_an_answer_of_another_contract_is_refused() -> None:
    other = "sha256:" + "0" * 64
    with pytest.raises(ContractError, match=f"{other}.*{contract().digest}"):
        read(response([1.0, 0.0, 0.0, 0.0], report=REPORT | {"contract_digest": other}))
