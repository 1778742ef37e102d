"""Who decodes waits while enough of it waits for the encoder, and never for what was lost."""

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from tubelet.server import shm
from tubelet.spec.errors import DeadlineError, OverloadedError

MODULE = "tubelet.server.steps.backlog"
OVER = 1e-9
"""A moment of the monotonic clock that has passed."""


@pytest.fixture
def make_backlog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Backlogs as the processes of one server open them."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", MagicMock())
    monkeypatch.setattr(shm, "SHM", tmp_path)
    monkeypatch.setenv(shm.PREFIX_VARIABLE, "tubelet_1_")
    yield lambda model="demo": importlib.import_module(MODULE).Backlog(model)
    for name in (MODULE, "tubelet.server.steps.base", "tubelet.server.metrics"):
        sys.modules.pop(name, None)


def is_full(backlog: Any) -> bool:
    try:
        backlog.wait(OVER)
    except DeadlineError:
        return True
    return False


def test_it_is_full_while_the_encoder_works_and_enough_waits(make_backlog: Callable[..., Any]) -> None:
    encoder, one, other = make_backlog(), make_backlog(), make_backlog()
    encoder.allow(8, units_per_s=0.0)
    one.add(100)
    assert not is_full(other), "the encoder has nothing to do"
    with encoder.taken():
        assert not is_full(other), "all of it was taken"
        one.add(5)
        assert not is_full(one)
        other.add(3)
        assert is_full(one)
        assert is_full(other)
        assert not is_full(make_backlog("another"))
    with encoder.taken():
        assert not is_full(one)


def test_between_two_runs_it_stays_full_but_not_for_what_was_lost(make_backlog: Callable[..., Any]) -> None:
    encoder, sample = make_backlog(), make_backlog()
    encoder.allow(8, units_per_s=0.0)
    with encoder.taken():
        sample.add(8)
    began = time.monotonic()
    sample.wait(began + 60)  # no run follows: whoever these units were for has gone
    assert time.monotonic() < began + 60


def test_who_waits_goes_on_with_the_encoders_next_run(make_backlog: Callable[..., Any]) -> None:
    encoder, sample = make_backlog(), make_backlog()
    encoder.allow(8, units_per_s=0.0)
    with ThreadPoolExecutor(1) as pool:
        with encoder.taken():
            sample.add(8)
            waiting = pool.submit(sample.wait, time.monotonic() + 60)
            assert not waiting.done()
        with encoder.taken():
            waiting.result(timeout=60)


def test_an_encoder_that_is_no_step_of_ours_allows_any_number(make_backlog: Callable[..., Any]) -> None:
    sample = make_backlog()
    sample.add(1000)
    with make_backlog().taken():
        sample.add(1000)
        assert not is_full(sample)


def test_without_a_supervisor_each_process_is_by_itself(
    make_backlog: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(shm.PREFIX_VARIABLE)
    encoder, sample = make_backlog(), make_backlog()
    encoder.allow(8, units_per_s=0.0)
    with encoder.taken():
        sample.add(8)
        assert not is_full(sample)
    assert not list(tmp_path.iterdir())


def test_counts_of_several_processes_are_not_lost(make_backlog: Callable[..., Any]) -> None:
    encoder = make_backlog()
    encoder.allow(4001, units_per_s=0.0)
    with encoder.taken(), ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda backlog: [backlog.add(1) for _ in range(1000)], [make_backlog() for _ in range(4)]))
        assert not is_full(encoder)
        encoder.add(1)
        assert is_full(encoder)


def test_what_cannot_be_encoded_in_time_is_refused_while_others_are_before_it(make_backlog: Callable[..., Any]) -> None:
    encoder, sample = make_backlog(), make_backlog()
    encoder.allow(1_000_000, units_per_s=10.0)
    soon, never = time.monotonic() + 60, time.monotonic() + 3600
    sample.wait(never, units=100_000, until=soon)  # whoever is alone is tried
    sample.add(10_000)
    with encoder.taken():
        with pytest.raises(OverloadedError, match=r"19\d\d\.\d s too late"):
            sample.wait(never, until=soon)
        sample.wait(never, until=soon + 2000)  # as much again comes beside what waits
    sample.wait(never, units=100_000, until=soon)  # the run has ended, before its time
    with encoder.taken():
        sample.wait(never, units=100, decode_s=10.0, until=soon)
        sample.add(300)
        sample.wait(never, units=100, decode_s=10.0, until=soon)
        for more in ({"units": 400}, {"units": 100, "decode_s": 55.0}):
            with pytest.raises(OverloadedError):
                sample.wait(never, until=soon, **more)
        sample.wait(soon, units=700, until=soon)  # it would be late even alone: no less load would help


def test_an_encoder_of_unknown_speed_refuses_nothing(make_backlog: Callable[..., Any]) -> None:
    encoder, sample = make_backlog(), make_backlog()
    encoder.allow(8, units_per_s=0.0)
    sample.add(7)
    with encoder.taken():
        sample.add(7)
        sample.wait(time.monotonic() + 3600, units=1_000_000, until=time.monotonic() + 1)
