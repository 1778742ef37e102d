"""Measurements and results as a load test makes them, of times that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tubelet.loadtest.histograms import histogram_of, summary
from tubelet.loadtest.measured import (
    GeneratorFigures,
    KindFigures,
    Machine,
    Measurement,
    Promised,
    Result,
    SearchFigures,
    ServerFigures,
    ServerSeries,
    StepFigures,
)
from tubelet.loadtest.promise import judge, parse_promise
from tubelet.loadtest.recording import Recorder
from tubelet.loadtest.scenario import Scenario
from tubelet.loadtest.sending import Reply
from tubelet.loadtest.summing import errors_of, figures_of, figures_together, rates_of, series_of
from tubelet.spec.strict import decode

DURATION_S = 20.0


def scenario(kinds: Mapping[str, str] | None = None, **changes: Any) -> Scenario:
    """A scenario whose kinds of request (by name, each with its stream) ask one model."""
    kinds = kinds or {"clips": "interactive"}
    streams = [
        {
            "name": stream,
            "arrivals": {"kind": "steady", "rate": 10.0},
            "requests": [
                {"name": kind, "model": "demo", "videos": "made"} for kind, its in kinds.items() if its == stream
            ],
        }
        for stream in dict.fromkeys(kinds.values())
    ]
    plain = {
        "name": "steady",
        "url": "127.0.0.1:8001",
        "videos": {"made": {"kind": "synthetic"}},
        "streams": streams,
        "duration_s": DURATION_S,
    }
    return decode(Scenario, {**plain, **changes}, where="scenario")


def measurement(
    latencies_ms: Mapping[str, Sequence[float]],
    *,
    of: Scenario | None = None,
    failed: Mapping[str, Sequence[int]] | None = None,
    cut_off: int = 0,
    is_on_time: bool = True,
    **changes: Any,
) -> Measurement:
    """What is measured of requests that were due evenly over the time.

    Args:
        latencies_ms: of each kind's requests, in the order in which they were due.
        of: the scenario; made of the kinds if left out.
        failed: of each kind, the places in that order of those that failed with ``overloaded``.
        cut_off: as many more of the first kind were cut off at the end.
        is_on_time: of the generator.
        changes: other fields.
    """
    of = of or scenario(dict.fromkeys(latencies_ms, "interactive"))
    recorder = Recorder(len(of.kinds))
    for number, (_, kind) in enumerate(of.kinds):
        times, wrong = latencies_ms.get(kind.name, ()), set((failed or {}).get(kind.name, ()))
        for place, ms in enumerate(times):
            due_s = DURATION_S * place / len(times)
            ended_s = due_s + ms / 1000
            if place in wrong:
                recorder.failed(number, "overloaded", due_s=due_s, ended_s=ended_s)
            else:
                reply = Reply(protocol="1x1", views=1, units=1, server_ms=ms, num_bytes=1000)
                recorder.answered(number, reply, due_s=due_s, ended_s=ended_s, lag_s=0.0)
    for _ in range(cut_off):
        recorder.cut_off(0, due_s=DURATION_S, ended_s=DURATION_S)
    records = recorder.records()
    together = figures_together(records, of.kinds, duration_s=DURATION_S)
    kinds: tuple[KindFigures, ...] = (replace(together, name=of.kinds[0][1].name),)  # quick, where all are of one kind
    if len(of.kinds) > 1:
        kinds = figures_of(records, of.kinds, duration_s=DURATION_S)
    rates = rates_of(records, duration_s=DURATION_S)
    found = Measurement(
        began_s=1e9,
        duration_s=DURATION_S,
        stopped_by="duration",
        offered_rate=together.requests / DURATION_S,
        rate=rates[0],
        views_rate=rates[1],
        units_rate=rates[2],
        warm_up_errors=errors_of(records[records.due_s < 0]),
        together=together,
        kinds=kinds,
        series=series_of(records, duration_s=DURATION_S),
        server=None,
        generator=GeneratorFigures(lag=summary(histogram_of(np.array([50.0]))), cpu_cores=0.1, is_on_time=is_on_time),
        promised=(),
    )
    found = replace(found, promised=judged(found, of))
    return replace(found, **changes)


def judged(found: Measurement, of: Scenario) -> tuple[Promised, ...]:
    return judge(parse_promise(of.promise or ""), found)


def result(found: Measurement, *, of: Scenario, search: SearchFigures | None = None, **changes: Any) -> Result:
    """A result on a machine that does not matter."""
    plain = Result(
        schema_version=1,
        tubelet_version="1.0",
        scenario=of,
        scenario_digest=of.digest,
        command="tubelet loadtest steady.toml",
        machine=Machine(
            processor="A processor", cores=2, memory_gib=8.0, system="Linux 6", python="3.11", versions={"numpy": "1"}
        ),
        contracts={"demo": "sha256:1"},
        measurement=found,
        search=search,
    )
    return replace(plain, **changes)


def server(queue_ms: Mapping[str, float]) -> ServerFigures:
    """The server's side with these steps, each computing for 5 ms."""
    return ServerFigures(
        version="2.51",
        steps=tuple(
            StepFigures(
                name=name,
                is_public="_" not in name,
                requests=10,
                failures=0,
                executions=10,
                total_ms=5 + waited,
                queue_ms=waited,
                input_ms=0.0,
                compute_ms=5.0,
                output_ms=0.0,
                batch_sizes={"1": 10},
            )
            for name, waited in queue_ms.items()
        ),
        processes=(),
        gpus=(),
        series=ServerSeries(at_s=(), cpu_cores=(), memory_mib=(), queued=()),
        restarts=0,
    )
