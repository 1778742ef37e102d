"""The encoder's step: whose units go together, on which stream, and whose failure is whose."""

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from threading import Barrier, Lock
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from numpy.typing import NDArray

from tubelet.spec.engine import Mode, Running
from tubelet.spec.errors import DeadlineError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Contract

STEP = "tubelet.server.steps.encoder"
LARGEST = 8


class Engine:
    """Gives each unit's first byte; can fail, take the time that a test gives it, or wait for the other streams."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.before: Callable[[NDArray[np.uint8]], object] = lambda units: None
        self._lock = Lock()

    def run(self, feeds: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        units = feeds["UNITS"]
        with self._lock:
            self.sizes.append(len(units))
        self.before(units)
        return {"FEATURES": np.repeat(units.reshape(len(units), -1)[:, :1], 8, axis=1).astype(np.float32)}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The step's module, with Triton's own, which exists in its processes only, made up."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", MagicMock())
    yield importlib.import_module(STEP)
    for name in (STEP, "tubelet.server.steps.backlog", "tubelet.server.steps.base", "tubelet.server.metrics"):
        sys.modules.pop(name, None)


@pytest.fixture
def make_step(
    module: Any, monkeypatch: pytest.MonkeyPatch, make_contract: Callable[..., Contract]
) -> Callable[..., tuple[Any, Engine]]:
    def make(mode: Mode, *, cores: int = 2) -> tuple[Any, Engine]:
        engine = Engine()
        step = module.TritonPythonModel()
        step.contract, step.limits, step.metrics = make_contract(), Limits(), MagicMock()
        step.parameters = {"largest_batch": str(LARGEST)}
        monkeypatch.setattr("tubelet.engines.base.num_cores", lambda: cores)
        running = Running(engine="openvino", precision="fp32", mode=mode)
        monkeypatch.setattr(type(step), "running", property(lambda self: running))
        monkeypatch.setattr(step, "open_graph", lambda filename, settings: engine)
        monkeypatch.setattr(step, "answer", lambda compute: attempt(compute))
        step.open()
        return step, engine

    return make


def attempt(compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except Exception as exc:  # noqa: BLE001  what a request fails with is what is looked at
        return exc


def request(first: int, count: int, *, deadline: float = 0.0) -> Any:
    units = np.zeros((count, 2, 48, 48, 3), np.uint8)
    units[:, 0, 0, 0, 0] = np.arange(first, first + count)
    tensors = {"UNITS": units, "UNIT_DEADLINES": np.full((count, 1), deadline)}
    given = [SimpleNamespace(name=lambda n=name: n, as_numpy=lambda a=array: a) for name, array in tensors.items()]
    return SimpleNamespace(inputs=lambda: given, is_cancelled=lambda: False, parameters=lambda: "{}")


def firsts(answer: Any) -> list[float]:
    features: list[float] = answer["FEATURES"][:, 0].tolist()
    return features


@pytest.mark.parametrize("mode", ["latency", "throughput"])
@pytest.mark.parametrize("counts", [(1,), (3, 1), (8,), (9,), (20, 1, 30), (5, 5, 5, 5)])
def test_every_request_gets_its_own_units_back(make_step: Any, mode: Mode, counts: tuple[int, ...]) -> None:
    step, engine = make_step(mode)
    starts = np.cumsum((0, *counts[:-1])).tolist()
    answers = step.execute([request(first, count) for first, count in zip(starts, counts, strict=True)])
    for answer, first, count in zip(answers, starts, counts, strict=True):
        assert firsts(answer) == list(range(first, first + count))
        assert (answer["ENCODED_AT"][:, 0] <= answer["ENCODED_AT"][:, 1]).all()
    assert sum(engine.sizes) == sum(counts)
    assert max(engine.sizes) <= LARGEST


def test_requests_share_runs(make_step: Any) -> None:
    step, engine = make_step("latency")
    step.execute([request(0, 3), request(3, 3), request(6, 4)])
    assert engine.sizes == [LARGEST, 2]


def test_streams_work_side_by_side_on_equal_parts(make_step: Any) -> None:
    """Both runs wait for each other: one after the other, they would wait for ever."""
    step, engine = make_step("throughput")
    meeting = Barrier(2, timeout=60)
    engine.before = lambda units: meeting.wait()
    (answer,) = step.execute([request(0, 12)])
    assert firsts(answer) == list(range(12))
    assert engine.sizes == [6, 6]


@pytest.mark.parametrize("largest", [1, 3, 8, 32])
@pytest.mark.parametrize("streams", [1, 2, 3, 16])
def test_no_stream_is_idle_while_another_has_a_run_more(module: Any, largest: int, streams: int) -> None:
    for num_units in range(1, 300):
        size = module.chunk_size(num_units, largest_batch=largest, num_streams=streams)
        assert 1 <= size <= largest
        num_runs = -(-num_units // size)
        if streams > 1 and num_units >= streams:
            assert size <= -(-num_units // streams)
            # As few rounds as the largest batch allows.
            assert -(-num_runs // streams) == -(-num_units // (largest * streams))


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_a_failure_of_the_engine_fails_only_those_in_its_run(make_step: Any, mode: Mode) -> None:
    step, engine = make_step(mode)

    def fail_on_unit_3(units: NDArray[np.uint8]) -> None:
        if 3 in units[:, 0, 0, 0, 0]:
            raise RuntimeError("out of memory")

    engine.before = fail_on_unit_3
    first, second = step.execute([request(0, 8), request(8, 8)])
    assert isinstance(first, RuntimeError)
    assert firsts(second) == list(range(8, 16))


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_a_deadline_that_has_passed_costs_no_run(make_step: Any, mode: Mode) -> None:
    step, engine = make_step(mode)
    late, other = step.execute([request(0, 20, deadline=time.monotonic() - 1), request(20, 4)])
    assert isinstance(late, DeadlineError)
    assert firsts(other) == [20, 21, 22, 23]
    assert sum(engine.sizes) == 4


def test_a_deadline_that_passes_meanwhile_stops_the_work(make_step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step, engine = make_step("latency")
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def take_a_second(units: NDArray[np.uint8]) -> None:
        clock[0] += 1

    engine.before = take_a_second
    (late,) = step.execute([request(0, 80, deadline=102.5)])
    assert isinstance(late, DeadlineError)
    assert engine.sizes == [LARGEST] * 3


def test_one_run_that_was_held_up_does_not_change_the_pace(make_step: Callable[..., tuple[Any, Engine]]) -> None:
    step, _ = make_step("latency")
    step.backlog = MagicMock()
    for seconds in (0.08, 0.08, 0.08, 80.0):
        step._learn(8, seconds)
    assert step.backlog.allow.call_args.kwargs["units_per_s"] == pytest.approx(100.0)
    for _ in range(5):
        step._learn(8, 80.0)
    assert step.backlog.allow.call_args.kwargs["units_per_s"] == pytest.approx(0.1), "this is its pace now"
