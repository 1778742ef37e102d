"""What a load test does, as its TOML file says it: streams of requests, when they are due, which videos they carry.

A scenario is plain data. Keys that are left out have the defaults written here; whatever else does not fit is an error
that names its place.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tubelet.spec.errors import RecipeError, ScenarioError
from tubelet.spec.priorities import Priority
from tubelet.spec.strict import decode, digest, optional

__all__ = [
    "Arrivals",
    "Bursts",
    "Closed",
    "Folder",
    "RequestKind",
    "Scenario",
    "Search",
    "Spacing",
    "Steady",
    "Steps",
    "Stream",
    "Synthetic",
    "Trace",
    "Videos",
    "load_scenario",
]

Spacing = Literal["constant", "poisson"]

MOST_S, MOST_REQUESTS, MOST_IN_FLIGHT = 24 * 3600.0, 10_000_000, 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Closed:
    """So many callers, each of which sends its next request when it has an answer."""

    kind: Literal["closed"]
    callers: int
    pause_s: float = optional(0.0)
    """Between an answer and the next request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Steady:
    """An open loop at one rate, whatever the server does."""

    kind: Literal["steady"]
    rate: float
    """Requests a second."""
    spacing: Spacing = optional("poisson")


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """An open loop whose rate goes through stages, for ramps and steps; then it begins again."""

    kind: Literal["steps"]
    stages: tuple[tuple[float, float, float], ...]
    """Seconds, and requests a second at its beginning and at its end, of each stage."""
    spacing: Spacing = optional("poisson")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bursts:
    """An open loop of many requests at the same moment, again and again."""

    kind: Literal["bursts"]
    size: int
    every_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """An open loop at recorded moments: a file with a number of seconds in each line."""

    kind: Literal["trace"]
    file: str
    """Beside the scenario."""
    speed: float = optional(1.0)
    """2: twice as fast as it was recorded."""


Arrivals = Closed | Steady | Steps | Bursts | Trace


@dataclass(frozen=True, kw_only=True, slots=True)
class Synthetic:
    """Videos that are made for the test, each different from the others."""

    kind: Literal["synthetic"]
    count: int = optional(32)
    codec: str = optional("h264")
    """``h264``, ``hevc``, ``mpeg4``, ``vp9``, ``av1`` or ``mjpeg``."""
    width: int = optional(320)
    height: int = optional(240)
    duration_s: float = optional(2.0)
    fps: float = optional(25.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """Video files."""

    kind: Literal["folder"]
    path: str
    """Beside the scenario, or absolute."""
    pattern: str = optional("**/*.*")
    most: int = optional(256)
    """So many files at most, the first by name."""


Videos = Synthetic | Folder


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestKind:
    """One kind of request in a stream."""

    name: str
    """Unique in the scenario: figures are told apart by it."""
    model: str
    videos: str
    """One of the scenario's ``videos``."""
    protocol: str | None = optional(None)
    """None: the model's own."""
    weight: float = optional(1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """Requests that arrive together, mixed at random by their weights."""

    name: str
    arrivals: Arrivals
    requests: tuple[RequestKind, ...]
    priority: Priority = optional("interactive")
    deadline_s: float = optional(30.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How to look for the highest rate that keeps the promise: all streams with an open loop are scaled together."""

    least_rate: float
    most_rate: float
    """Requests a second of these streams together; the answer lies between."""
    trial_s: float = optional(20.0)
    precision: float = optional(0.05)
    """How far the answer may be below a rate that breaks the promise, as a share of it."""
    confirmations: int = optional(3)
    """Trials of each rate, of which more than half decide."""
    curve_points: int = optional(6)
    """Rates up to beyond the answer at which the curve of latency over throughput is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """A whole load test."""

    name: str
    url: str
    """The server, as the clients take it: the only address that requests go to."""
    videos: dict[str, Videos]
    streams: tuple[Stream, ...]
    duration_s: float
    """Measured; comes after the warm-up."""
    description: str = optional("")
    warm_up_s: float = optional(3.0)
    """The same load before the measurement; of it only errors are shown."""
    most_requests: int = optional(100_000)
    """Ends the test early."""
    most_in_flight: int = optional(2_000)
    """A request that is due beyond it counts as an error, ``not_sent``: the machine that asks must survive."""
    metrics_url: str | None = optional(None)
    """Triton's metrics, such as ``http://127.0.0.1:8002/metrics``, for figures of a GPU; None: without."""
    seed: int = optional(0)
    promise: str | None = optional(None)
    """Such as ``p99 <= 500 ms, errors <= 0.1 %``, see `tubelet.loadtest.promise`; None: nothing is promised."""
    search: Search | None = optional(None)

    @property
    def digest(self) -> str:
        """Of all that decides what is asked of a server; results of equal scenarios can be compared."""
        return digest(self)

    @property
    def kinds(self) -> tuple[tuple[Stream, RequestKind], ...]:
        """Every kind of request, with its stream."""
        return tuple((stream, kind) for stream in self.streams for kind in stream.requests)


def load_scenario(path: Path) -> Scenario:
    """Reads a scenario.

    Raises:
        ScenarioError: ``bad_scenario``, naming the place, what was expected and what came.
    """
    try:
        scenario = decode(Scenario, tomllib.loads(path.read_text(encoding="utf-8")), where="scenario")
    except OSError as exc:
        raise ScenarioError("bad_scenario", f"cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise ScenarioError("bad_scenario", f"{path.name} is not TOML: {exc}") from exc
    except RecipeError as exc:
        raise ScenarioError("bad_scenario", exc.message) from exc
    _check(scenario)
    return scenario


def _check(scenario: Scenario) -> None:
    _check_names(scenario)
    _within("duration_s", scenario.duration_s, MOST_S)
    _within("most_requests", scenario.most_requests, MOST_REQUESTS)
    _within("most_in_flight", scenario.most_in_flight, MOST_IN_FLIGHT)
    if not 0 <= scenario.warm_up_s <= MOST_S:
        raise _unfit("warm_up_s", f"from 0 to {MOST_S:g}", scenario.warm_up_s)
    for stream, kind in scenario.kinds:
        _within(f"{stream.name}.deadline_s", stream.deadline_s, MOST_S)
        _within(f"{kind.name}.weight", kind.weight, 1e6)
    for stream in scenario.streams:
        _check_arrivals(stream.name, stream.arrivals)
    if scenario.search is not None:
        _check_search(scenario.search)
    for name, videos in scenario.videos.items():
        for key in ("count", "width", "height", "duration_s", "fps", "most"):
            if hasattr(videos, key):
                _within(f"videos.{name}.{key}", getattr(videos, key), 1e6)


def _check_names(scenario: Scenario) -> None:
    # Its result becomes a file of that name after the load, when it is too late to say so.
    if not re.fullmatch(r"(?!\.)[^/\\\x00-\x1f]{1,60}", scenario.name):
        raise _unfit("name", "the name of a file, of at most 60 characters", repr(scenario.name))
    kinds, streams = [kind.name for _, kind in scenario.kinds], [stream.name for stream in scenario.streams]
    for what, names in (("streams", streams), ("requests", kinds)):
        if not names or len(set(names)) < len(names):
            raise ScenarioError("bad_scenario", f"{what} must have names, each once, got {names}")
    if empty := [stream.name for stream in scenario.streams if not stream.requests]:
        raise ScenarioError("bad_scenario", f"a stream has requests; those of {', '.join(empty)} are missing")
    for _, kind in scenario.kinds:
        if kind.videos not in scenario.videos:
            raise ScenarioError(
                "bad_scenario",
                f"{kind.name} asks for videos {kind.videos!r}; the scenario has {', '.join(scenario.videos) or 'none'}",
            )


def _check_arrivals(name: str, arrivals: Arrivals) -> None:
    match arrivals:
        case Closed():
            _within(f"{name}.callers", arrivals.callers, MOST_IN_FLIGHT)
            if arrivals.pause_s < 0:
                raise _unfit(f"{name}.pause_s", "0 or more", arrivals.pause_s)
        case Steady():
            _within(f"{name}.rate", arrivals.rate, 1e5)
        case Bursts():
            _within(f"{name}.size", arrivals.size, MOST_IN_FLIGHT)
            _within(f"{name}.every_s", arrivals.every_s, MOST_S)
        case Steps():
            if not arrivals.stages or not any(seconds * (first + last) > 0 for seconds, first, last in arrivals.stages):
                raise _unfit(f"{name}.stages", "stages in which requests arrive", arrivals.stages)
            for seconds, first, last in arrivals.stages:
                _within(f"{name}.stages: seconds", seconds, MOST_S)
                if min(first, last) < 0 or max(first, last) > 1e5:
                    raise _unfit(f"{name}.stages: rates", "from 0 to 100000 a second", (first, last))
        case Trace():
            _within(f"{name}.speed", arrivals.speed, 1e6)


def _check_search(search: Search) -> None:
    _within("search.most_rate", search.most_rate, 1e5)
    _within("search.least_rate", search.least_rate, search.most_rate)
    _within("search.trial_s", search.trial_s, MOST_S)
    _within("search.confirmations", search.confirmations, 99)
    if not 0.001 <= search.precision <= 1:
        raise _unfit("search.precision", "from 0.001 to 1", search.precision)
    if not 0 <= search.curve_points <= 100:
        raise _unfit("search.curve_points", "from 0 to 100", search.curve_points)


def _within(name: str, value: float, most: float) -> None:
    if not 0 < value <= most:
        raise _unfit(name, f"above 0 and at most {most:g}", value)


def _unfit(name: str, expected: str, value: object) -> ScenarioError:
    return ScenarioError("bad_scenario", f"{name} must be {expected}, got {value}")
