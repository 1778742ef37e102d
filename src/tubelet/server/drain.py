"""Waits until a server has nothing in hand, so that stopping it costs nobody an answer.

Triton refuses the next step of an ensemble as soon as it is told to stop. So whatever is in flight must be done before:
this is what a pod runs before its containers are stopped (``preStop``), while the server goes on as ever.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Literal

from tubelet.server.health import Probe

__all__ = ["Ended", "Work", "read_work", "wait_until_idle"]

POLL_S = 0.2

_WAITING, _RUNNING = "nv_inference_pending_request_count", "tubelet_requests_running"
_FINISHED = ("nv_inference_request_success", "nv_inference_request_failure")

Ended = Literal["idle", "gone", "late"]
"""How the wait ended: nothing is in flight; there is no server; the time was over."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a server says of its work, over all steps of all models."""

    in_flight: float
    """Requests that wait for a step or are in one of tubelet's; Triton itself does not count what it runs."""
    finished: float
    """Requests that steps have answered, well or not."""


def read_work(metrics: str) -> Work:
    """Adds up what Triton's metrics page says."""
    in_flight = finished = 0.0
    for line in metrics.splitlines():
        name, _, value = line.partition("{")
        if name in (_WAITING, _RUNNING):
            in_flight += float(value.rsplit(" ", 1)[1])
        elif name in _FINISHED:
            finished += float(value.rsplit(" ", 1)[1])
    return Work(in_flight, finished)


def wait_until_idle(probe: Probe, *, pause_s: float, quiet_s: float, most_s: float) -> Ended:
    """Waits ``pause_s``, then until nothing has been in flight and nothing has ended for ``quiet_s``.

    The canaries of the supervisor and of the health check are requests, too: each begins ``quiet_s`` anew, so it must
    be shorter than the pauses between them.

    Args:
        probe: of the server, with its metrics port.
        pause_s: for callers to learn that they are to go elsewhere; requests are served meanwhile.
        quiet_s: longer than a GPU computes for one step, which shows in no figure until it is over.
        most_s: the wait ends after this, all told, whatever is in flight.
    """
    began = time.monotonic()
    time.sleep(min(pause_s, most_s))
    last, quiet_since = Work(in_flight=1.0, finished=0.0), began
    while (now := time.monotonic()) < began + most_s:
        try:
            work = read_work(probe.metrics())
        except ConnectionRefusedError:
            return "gone"
        except OSError:  # it does not find the time to say; the last word holds
            work = Work(in_flight=1.0, finished=last.finished)
        if work.in_flight or work != last:
            quiet_since = now
        elif now - quiet_since >= quiet_s:
            return "idle"
        last = work
        time.sleep(POLL_S)
    return "late"


def main() -> int:
    """Waits until the server on this machine has nothing in hand: what a pod runs before it is stopped."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument("--pause-s", type=float, default=10.0, help="how long callers have to learn that it goes away")
    parser.add_argument("--quiet-s", type=float, default=2.0, help="how long nothing must happen to count as idle")
    parser.add_argument("--most-s", type=float, default=300.0, help="the most that all of it may take")
    arguments = parser.parse_args()
    probe = Probe("127.0.0.1", http_port=0, metrics_port=arguments.metrics_port)
    ended = wait_until_idle(probe, pause_s=arguments.pause_s, quiet_s=arguments.quiet_s, most_s=arguments.most_s)
    print(f"tubelet: drain: {ended}", file=sys.stderr)  # noqa: T201
    return int(ended == "late")


if __name__ == "__main__":
    sys.exit(main())
