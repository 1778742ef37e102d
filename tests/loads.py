"""Makes results of invented load tests, for tests of what shows them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from tubelet.loadtest.compared import ComparedFigure, ComparedKind, ComparedResult, ComparedStep, Comparison
from tubelet.loadtest.histograms import from_text, histogram_of, new_histogram, summary
from tubelet.loadtest.measured import (
    CurvePoint,
    GeneratorFigures,
    GpuFigures,
    KindFigures,
    Latency,
    Machine,
    Measurement,
    ProcessFigures,
    Promised,
    Result,
    SearchFigures,
    Series,
    ServerFigures,
    ServerSeries,
    StepFigures,
    Trial,
)
from tubelet.loadtest.scenario import Bursts, Closed, RequestKind, Scenario, Search, Steady, Stream, Synthetic

HOSTILE = "<script>alert('kind')</script>"


@cache
def latency(number: int, *, median_ms: float = 40.0) -> Latency:
    """So many times around a median, a few of them long."""
    draw = np.random.default_rng(number)
    times_us = 1000 * median_ms * draw.lognormal(0, 0.4, number) * np.where(draw.random(number) < 0.01, 8, 1)
    return summary(histogram_of(times_us.astype(np.uint32)))


def kind(
    name: str = "clip", *, answered: int = 2000, errors: Mapping[str, int] | None = None, median_ms: float = 40.0
) -> KindFigures:
    """One kind of request."""
    errors = dict(errors or {})
    return KindFigures(
        name=name,
        stream="people",
        model="motion",
        protocol="1x1" if answered else "",
        priority="interactive",
        requests=answered + sum(errors.values()),
        answered=answered,
        errors=errors,
        cut_off=0,
        views=answered,
        units=8 * answered,
        bytes_sent=20_000 * answered,
        latency=latency(answered, median_ms=median_ms),
        failure_latency=latency(sum(errors.values()), median_ms=3 * median_ms),
        server=latency(answered, median_ms=0.8 * median_ms),
        blocks=(),
    )


def together(kinds: Sequence[KindFigures]) -> KindFigures:
    """All of them."""
    if len(kinds) == 1:
        return replace(kinds[0], name="all")
    histogram = new_histogram()
    errors: dict[str, int] = {}
    for one in kinds:
        histogram.add(from_text(one.latency.histogram))
        for code, count in one.errors.items():
            errors[code] = errors.get(code, 0) + count
    sums = {name: sum(getattr(one, name) for one in kinds) for name in ("requests", "answered", "views", "units")}
    return replace(
        kinds[0], name="all", stream="", model="", protocol="", errors=errors, latency=summary(histogram), **sums
    )


def series(bins: int = 60, *, bin_s: float = 1.0, rate: int = 33, stall: tuple[int, int] | None = (30, 33)) -> Series:
    """A steady load; in the bins of the stall nothing is answered, and then all at once."""
    draw = random.Random(1)
    due = [max(0, round(draw.gauss(rate, 3))) for _ in range(bins)]
    answered, in_flight, waiting = [], [], 0
    for place, count in enumerate(due):
        is_stalled = stall is not None and stall[0] <= place < stall[1]
        waiting += count
        done = 0 if is_stalled else max(0, waiting - 3)
        waiting -= done
        answered.append(done)
        in_flight.append(waiting)
    wait_ms = [0.0] * bins
    if stall is not None:
        wait_ms = [1000.0 * max(stall[1] - place, 0) * (place >= stall[0]) for place in range(bins)]
    return Series(
        bin_s=bin_s,
        due=tuple(due),
        answered=tuple(answered),
        failed=tuple(1 if draw.random() < 0.05 else 0 for _ in range(bins)),
        in_flight=tuple(in_flight),
        p50_ms=tuple(0.5 * wait + draw.gauss(40, 2) for wait in wait_ms),
        p99_ms=tuple(0.99 * wait + draw.gauss(120, 20) for wait in wait_ms),
        max_ms=tuple(wait + draw.gauss(240, 40) for wait in wait_ms),
    )


def step(name: str, requests: int, queue_ms: float, compute_ms: float, *, is_public: bool = False) -> StepFigures:
    """One model of Triton's."""
    return StepFigures(
        name=name,
        is_public=is_public,
        requests=requests,
        failures=2,
        executions=requests // 2,
        total_ms=queue_ms + compute_ms + 0.3,
        queue_ms=queue_ms,
        input_ms=0.2,
        compute_ms=compute_ms,
        output_ms=0.1,
        batch_sizes={"1": requests // 4, "8": requests // 4},
    )


def server(*, processes: bool = True, gpus: bool = False, samples: int = 60, restarts: int = 0) -> ServerFigures:
    """A server of one model in five steps."""
    draw = random.Random(2)
    names = {"tubelet serve": (0.01, 60.0), "tritonserver": (0.2, 300.0), "motion_encoder": (1.1, 210.0)}
    return ServerFigures(
        version="2.51.0",
        steps=(
            step("motion", 2003, 0.0, 37.0, is_public=True),
            step("motion_sample", 2003, 1.2, 8.3),
            step("motion_units", 2003, 0.4, 2.1),
            step("motion_encoder", 2003, 6.0, 15.0),
            step("motion_temporal", 2003, 0.3, 2.2),
            step("motion_average", 2003, 0.1, 0.6),
        ),
        processes=tuple(
            ProcessFigures(
                name=name,
                pid=100 + place,
                cpu_cores=cores,
                first_mib=mib,
                last_mib=mib + 3,
                most_mib=mib + 9,
                growth_mib_per_hour=-1.5 if place else 12.0,
            )
            for place, (name, (cores, mib)) in enumerate(names.items())
        )
        if processes
        else (),
        gpus=(GpuFigures(uuid="GPU-0a1b", utilisation=0.42, first_mib=900, most_mib=2100.0, power_w=0),)
        if gpus
        else (),
        series=ServerSeries(
            at_s=tuple(float(place) for place in range(samples)),
            cpu_cores=tuple(1.3 + draw.gauss(0, 0.05) for _ in range(samples)),
            memory_mib=tuple(570.0 + place / 20 for place in range(samples)),
            queued=tuple(60 if 30 <= place < 33 else draw.randrange(3) for place in range(samples)),
        )
        if processes
        else ServerSeries(at_s=(), cpu_cores=(), memory_mib=(), queued=()),
        restarts=restarts,
    )


def scenario(*kinds: KindFigures, promise: str | None = "p99 <= 500 ms, errors <= 0.1 %") -> Scenario:
    """One that asks for these kinds."""
    requests = tuple(RequestKind(name=one.name, model="motion", videos="short", protocol="1x1") for one in kinds)
    return Scenario(
        name="steady",
        url="http://127.0.0.1:8000",
        videos={"short": Synthetic(kind="synthetic")},
        streams=(Stream(name="people", arrivals=Steady(kind="steady", rate=33.0), requests=requests),),
        duration_s=60.0,
        promise=promise,
        search=Search(least_rate=1.0, most_rate=100.0),
    )


def measurement(
    *kinds: KindFigures, side: ServerFigures | None = None, promised: tuple[Promised, ...] = ()
) -> Measurement:
    """One of these kinds."""
    answered = sum(one.answered for one in kinds)
    return Measurement(
        began_s=1_700_000_000.0,
        duration_s=60.0,
        stopped_by="duration",
        offered_rate=sum(one.requests for one in kinds) / 60,
        rate=answered / 60,
        views_rate=answered / 60,
        units_rate=8 * answered / 60,
        warm_up_errors={},
        together=together(kinds),
        kinds=kinds,
        series=series(),
        server=side,
        generator=GeneratorFigures(lag=latency(answered, median_ms=0.2), cpu_cores=0.12, is_on_time=True),
        promised=promised,
    )


def result(
    *kinds: KindFigures,
    side: ServerFigures | None = None,
    promised: tuple[Promised, ...] = (),
    search: SearchFigures | None = None,
) -> Result:
    """A whole result of these kinds; without any, of one."""
    kinds = kinds or (kind(errors={"queue_full": 3}),)
    asked = scenario(*kinds, promise=", ".join(one.clause for one in promised) or None)
    return Result(
        schema_version=1,
        tubelet_version="0.0.0",
        scenario=asked,
        scenario_digest="sha256:" + "ab" * 32,
        command="tubelet loadtest steady.toml --out .",
        machine=Machine(
            processor="Some Processor <9000>",
            cores=2,
            memory_gib=7.8,
            system="Linux 6.1",
            python="3.11.2",
            versions={"grpcio": "1.2.3", "numpy": "1.26.4"},
        ),
        contracts={"motion": "sha256:" + "cd" * 32},
        measurement=measurement(*kinds, side=side, promised=promised),
        search=search,
    )


KEPT = (
    Promised(clause="p99 <= 500 ms", found=123.4, kept=True),
    Promised(clause="errors <= 0.2 %", found=0.1498, kept=True),
)
BROKEN = (replace(KEPT[0], found=1812.0, kept=False), KEPT[1])


def search(*, highest: float | None = 41.2, broken: float | None = 43.0) -> SearchFigures:
    """A search that ends at a rate."""
    rates = [5.0, 10.0, 20.0, 30.0, 36.0, 41.2, 43.0, 50.0, 60.0]
    limit = highest or 0
    trials = [
        Trial(
            rate=rate,
            answered_rate=min(rate, 44.0 + repeat / 10) - repeat / 5,
            p50_ms=(30 + repeat) * (1 + (rate / 46) ** 8 * 3),
            p99_ms=(80 + 9 * repeat) * (1 + (rate / 44) ** 12 * 6),
            error_share=0.0 if rate <= limit else 0.02,
            kept=rate <= limit,
            is_on_time=True,
        )
        for rate in rates
        for repeat in range(3)
    ]
    curve = [
        CurvePoint(
            rate=one.rate,
            answered_rate=one.answered_rate,
            p50_ms=one.p50_ms,
            p99_ms=one.p99_ms,
            error_share=one.error_share,
            kept=one.kept,
        )
        for one in trials[1::3]
    ]
    return SearchFigures(
        highest_rate=highest,
        broken_rate=broken,
        limited_by="promise",
        trials=tuple(trials),
        curve=tuple(curve),
        knee_rate=36.0,
    )


def mixed() -> Result:
    """Two streams, bursts and callers among them, an archive beside people."""
    kinds = (
        kind("single view", median_ms=25),
        kind("30 views", answered=300, median_ms=400),
        kind("whole video", answered=120, median_ms=900, errors={"deadline_exceeded": 14, "queue_full": 60}),
    )
    made = result(*kinds, side=server(), promised=BROKEN)
    people, archive = made.scenario.kinds[:2], made.scenario.kinds[2:]
    streams = (
        replace(made.scenario.streams[0], requests=tuple(one for _, one in people)),
        Stream(
            name="archive",
            arrivals=Bursts(kind="bursts", size=12, every_s=5.0),
            requests=tuple(one for _, one in archive),
            priority="archive",
        ),
        Stream(
            name="callers",
            arrivals=Closed(kind="closed", callers=2, pause_s=0.5),
            requests=(RequestKind(name="slow", model="motion_vtn", videos="short"),),
        ),
    )
    return replace(made, scenario=replace(made.scenario, streams=streams))


def figure(name: str = "p50", a: float = 40.0, b: float = 41.0, **values: object) -> ComparedFigure:
    """One figure of a comparison; unchanged unless told otherwise."""
    plain: dict[str, object] = {
        "unit": "%" if name == "errors" else "/s" if "rate" in name else "ms",
        "difference": (b - a) / 100 if name == "errors" else b / a - 1 if a else None,
        "low": -0.05,
        "high": 0.08,
        "is_changed": False,
        "is_worse": b > a,
        "is_regression": False,
    }
    return ComparedFigure(name=name, a=a, b=b, **{**plain, **values})  # type: ignore[arg-type]


def comparison(*figures: ComparedFigure, name: str = "all", notes: Sequence[str] = ()) -> Comparison:
    """Two results of the same scenario."""
    one = ComparedResult(
        scenario="steady",
        url="http://127.0.0.1:8000",
        began_s=1_700_000_000.0,
        tubelet_version="0.0.0",
        command="tubelet loadtest <steady>.toml",
        processor="Some Processor",
        offered_rate=33.0,
    )
    return Comparison(
        schema_version=1,
        threshold=0.1,
        a=one,
        b=replace(one, began_s=1_700_003_600.0),
        notes=tuple(notes),
        kinds=(ComparedKind(name=name, figures=figures),),
        is_same_load=True,
        highest_rate=None,
        steps=(
            ComparedStep(
                name="motion", is_public=True, queue_a_ms=0.0, queue_b_ms=None, compute_a_ms=37.0, compute_b_ms=None
            ),
        ),
    )
