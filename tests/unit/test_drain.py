"""When a server counts as idle, by what its metrics page says from one look to the next."""

from collections.abc import Iterator, Sequence

import pytest

from tubelet.server import drain
from tubelet.server.drain import Work, read_work, wait_until_idle
from tubelet.server.health import Probe

PAGE = """\
# HELP nv_inference_pending_request_count Instantaneous number of pending requests awaiting execution per-model.
nv_inference_pending_request_count{model="a",version="1"} 0
nv_inference_pending_request_count{model="a_sample",version="1"} 3
nv_inference_pending_request_count{model="a_encoder",version="1"} 1
tubelet_requests_running{model="a",step="encoder"} 2
nv_inference_request_success{model="a",version="1"} 5
nv_inference_request_success{model="a_sample",version="1"} 9
nv_inference_request_failure{model="a_sample",reason="OTHER",version="1"} 1
nv_inference_queue_summary_us{model="a",version="1",quantile="0.5"} nan
tubelet_units_encoded_total{model="a"} 40
"""


def page(*, waiting: int = 0, running: int = 0, finished: int = 0) -> str:
    return (
        f'nv_inference_pending_request_count{{model="a_sample",version="1"}} {waiting}\n'
        f'tubelet_requests_running{{model="a",step="sample"}} {running}\n'
        f'nv_inference_request_success{{model="a",version="1"}} {finished}\n'
    )


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A time of its own: only pauses take time."""
    now = [0.0]
    monkeypatch.setattr("tubelet.server.drain.time.monotonic", lambda: now[0])
    monkeypatch.setattr("tubelet.server.drain.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


class Pages:
    """A server whose metrics page changes with every look; the last one stays."""

    def __init__(self, pages: Sequence[str | OSError]) -> None:
        self.looks = 0
        self._pages: Iterator[str | OSError] = iter(pages)
        self._now: str | OSError = ""

    def __call__(self, _method: str, _path: str, **_: object) -> tuple[int, bytes]:
        self.looks += 1
        self._now = next(self._pages, self._now)
        if isinstance(self._now, OSError):
            raise self._now
        return 200, self._now.encode()


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> "Wait":
    return Wait(monkeypatch)


class Wait:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, *pages: str | OSError, pause_s: float = 10.0) -> tuple[str, int]:
        """How it ended, and after how many looks."""
        server = Pages(pages)
        self._monkeypatch.setattr(Probe, "_request", staticmethod(server))
        probe = Probe("127.0.0.1", 8000, 8002)
        return wait_until_idle(probe, pause_s=pause_s, quiet_s=0.5, most_s=20.0), server.looks


def test_work_is_what_waits_and_what_runs() -> None:
    assert read_work(PAGE) == Work(in_flight=6, finished=15)


def test_nothing_is_asked_before_the_pause_is_over(wait: Wait, clock: list[float]) -> None:
    _, looks = wait(page(), pause_s=0.0)
    clock[0] = 0.0
    assert wait(page(), pause_s=19.0) == ("idle", looks)
    assert clock[0] > 19.0


@pytest.mark.parametrize("busy", [page(waiting=1), page(running=1)])
def test_what_is_in_flight_is_waited_for(wait: Wait, busy: str) -> None:
    _, looks = wait(page())
    assert wait(*[busy] * 20, page()) == ("idle", looks + 20)


def test_what_came_and_went_between_two_looks_shows_too(wait: Wait) -> None:
    _, looks = wait(page())
    assert wait(page(finished=1), page(finished=2), page(finished=3)) == ("idle", looks + 2)


def test_the_wait_ends_with_work_left(wait: Wait, clock: list[float]) -> None:
    assert wait(page(running=1))[0] == "late"
    assert clock[0] == pytest.approx(20.0, abs=2 * drain.POLL_S)


def test_a_server_that_is_not_there_has_nothing_in_flight(wait: Wait) -> None:
    assert wait(page(running=1), ConnectionRefusedError()) == ("gone", 2)


def test_a_server_that_does_not_find_the_time_to_say_is_not_idle(wait: Wait) -> None:
    _, looks = wait(page())
    assert wait(*[TimeoutError()] * 7, page())[1] == looks + 7
