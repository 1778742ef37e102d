"""What the doctor thinks of what it sees."""

from __future__ import annotations

import json
import socket
import sys
from importlib.metadata import version

import pytest

from tubelet.server.doctor import (
    examine,
    is_able_to_serve,
    judge_cpu,
    judge_numpy,
    judge_port,
    judge_python,
    judge_shared_memory,
)
from tubelet.server.doctor_gpu import judge_backends, judge_tensorrt
from tubelet.server.findings import Finding
from tubelet.server.shm import MIN_FREE_BYTES


def test_this_machine_is_examined_without_an_error() -> None:
    findings = {finding.name: finding for finding in examine()}
    assert {"Python", "tritonserver", "numpy", "av", "shared memory", "NVIDIA GPU", "gRPC port"} <= set(findings)
    assert findings["Python"].ok
    assert findings["av"].ok
    assert findings["numpy"].detail == sys.modules["numpy"].__version__
    json.dumps([finding.to_json() for finding in findings.values()])


def test_each_missing_thing_has_a_remedy_and_nothing_else_has() -> None:
    findings = [
        *examine(),
        judge_numpy(None),
        judge_shared_memory(None),
        judge_python((3, 9)),
        judge_port("HTTP", 1, is_free=False),
        judge_backends([], is_there=False),
        judge_backends(["tensorrt"], is_there=True),
        judge_backends([], is_there=True),
        judge_tensorrt(None, frozenset()),
        judge_tensorrt("11.2.1.2", frozenset({"11.2.1.2"})),
        judge_tensorrt("11.2.1.2", frozenset({"11.4.0.1"})),
    ]
    assert all(bool(finding.remedy) != finding.ok for finding in findings)
    assert all(finding.detail for finding in findings)


def test_a_port_in_use_is_seen() -> None:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", 8001))
            listener.listen()
        except OSError:
            pass  # somebody else's, which serves the purpose as well
        (found,) = (finding for finding in examine() if finding.name == "gRPC port")
    assert not found.ok
    assert not found.is_needed


@pytest.mark.parametrize(("version", "ok"), [("1.26.4", True), ("2.0.0", False), ("10.0", False), (None, False)])
def test_only_numpy_1_will_do(version: str | None, ok: bool) -> None:
    assert judge_numpy(version).ok is ok


@pytest.mark.parametrize(
    ("free", "ok"), [(MIN_FREE_BYTES, True), (MIN_FREE_BYTES - 1, False), (0, False), (None, False)]
)
def test_shared_memory_must_be_large_enough(free: int | None, ok: bool) -> None:
    assert judge_shared_memory(free).ok is ok


@pytest.mark.parametrize(("version", "ok"), [((3, 10), False), ((3, 11), True), ((3, 12), True), ((3, 13), False)])
def test_the_python_must_be_one_that_the_wheel_has_a_stub_for(version: tuple[int, int], ok: bool) -> None:
    assert judge_python(version).ok is ok


def test_the_processors_bf16_is_named() -> None:
    assert "bf16: amx_bf16, avx512_bf16" in judge_cpu(frozenset({"avx512_bf16", "amx_bf16", "avx512f"}), {0, 1}).detail
    assert judge_cpu(frozenset(), {0}).detail == "1 cores, no AVX2, bf16: no, int8: slow"


def test_the_instructions_for_int8_are_named() -> None:
    assert judge_cpu(frozenset({"avx512_vnni", "avx_vnni"}), {0}).detail.endswith("int8: avx512_vnni, avx_vnni")


def test_both_engines_are_looked_for() -> None:
    findings = {finding.name: finding for finding in examine()}
    for engine in ("openvino", "onnxruntime"):
        assert findings[engine].ok
        assert findings[engine].is_needed
        assert findings[engine].detail == version(engine)
    assert not findings["nncf"].is_needed


def test_only_what_serving_needs_decides() -> None:
    fine = Finding(name="a", ok=True, is_needed=True, detail="x", remedy="")
    gpu = Finding(name="b", ok=False, is_needed=False, detail="x", remedy="y")
    lost = Finding(name="c", ok=False, is_needed=True, detail="x", remedy="y")
    assert is_able_to_serve([fine, gpu])
    assert not is_able_to_serve([fine, lost])


def test_plans_at_hand_are_held_against_the_tensorrt_that_is_here() -> None:
    assert judge_tensorrt("11.2.1.2", frozenset()).ok
    other = judge_tensorrt("11.2.1.2", frozenset({"11.4.0.1"}))
    assert "11.2.1.2, but the plans in model_repository were built by 11.4.0.1" in other.detail
    assert "tubelet engine" in other.remedy
    assert not judge_tensorrt(None, frozenset({"11.4.0.1"})).ok


def test_backends_that_lack_are_named() -> None:
    assert "without onnxruntime, tensorrt" in judge_backends(["onnxruntime", "tensorrt"], is_there=True).detail
