"""What a load test found, as plain data: the JSON file holds exactly this.

Times are in milliseconds where a name ends in ``_ms``, else in seconds. *Latency* counts from the moment a request was
due (open loop) or sent (closed loop) until its answer was there; only answers that are no errors are in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tubelet.loadtest.scenario import Scenario
from tubelet.spec.files import load_json, save_json
from tubelet.spec.priorities import Priority

__all__ = [
    "Block",
    "CurvePoint",
    "GeneratorFigures",
    "GpuFigures",
    "KindFigures",
    "Latency",
    "Machine",
    "Measurement",
    "ProcessFigures",
    "Promised",
    "Result",
    "SearchFigures",
    "Series",
    "ServerFigures",
    "ServerSeries",
    "StepFigures",
    "StopReason",
    "Trial",
]

StopReason = Literal["duration", "count", "interrupted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """A distribution of times; without any, all figures are 0."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    histogram: str
    """All of it: HdrHistogram's own base64 text (V2, compressed), of microseconds, three digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """An equal share of the measured time, by when requests were due; what noise is estimated from."""

    requests: int
    errors: int
    histogram: str
    """Latency, as in `Latency.histogram`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KindFigures:
    """One kind of request, or all kinds together."""

    name: str
    """As in the scenario; ``all``: together."""
    stream: str
    model: str
    protocol: str
    """As the server's report says it; empty: no answer, or several."""
    priority: Priority
    requests: int
    """That were due in the measured time: answered, failed or cut off."""
    answered: int
    errors: dict[str, int]
    """By our code, the most frequent first."""
    cut_off: int
    """Under way when the test was interrupted; in no other figure."""
    views: int
    """Of all answers."""
    units: int
    """Encoded for all answers."""
    bytes_sent: int
    """Of the videos that were answered."""
    latency: Latency
    failure_latency: Latency
    """The same of those that ended in an error."""
    server: Latency
    """What the server's report says that its steps took, of the same answers."""
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """The measured time in equal bins, the first of which begins with it."""

    bin_s: float
    due: tuple[int, ...]
    """Requests that became due (closed loop: were sent)."""
    answered: tuple[int, ...]
    """Answers that came, whenever they were asked for."""
    failed: tuple[int, ...]
    in_flight: tuple[int, ...]
    """At the end of the bin."""
    p50_ms: tuple[float, ...]
    """Latency of those that were due in the bin; 0: none."""
    p99_ms: tuple[float, ...]
    max_ms: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFigures:
    """One model of Triton's, a step or the public name, over the measured time; from Triton's own statistics."""

    name: str
    is_public: bool
    """A name that clients ask for: its time holds that of its steps."""
    requests: int
    """That succeeded."""
    failures: int
    executions: int
    total_ms: float
    """Here and below: mean of a request."""
    queue_ms: float
    input_ms: float
    compute_ms: float
    output_ms: float
    batch_sizes: dict[str, int]
    """Executions by the batch that was really formed (units, where the step batches)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessFigures:
    """One process of the server."""

    name: str
    """``tritonserver``, ``tubelet serve``, or of a step its model, with ``#2`` and so on where there are several."""
    pid: int
    cpu_cores: float
    """Mean number of cores kept busy."""
    first_mib: float
    """Resident memory after the warm-up, what it shares with others included."""
    last_mib: float
    most_mib: float
    growth_mib_per_hour: float
    """Slope of a line through the second half of the samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFigures:
    """A card, from Triton's metrics."""

    uuid: str
    utilisation: float
    """Mean, 0 to 1."""
    first_mib: float
    most_mib: float
    power_w: float
    """Mean; 0 where it is not told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSeries:
    """Samples of the server."""

    at_s: tuple[float, ...]
    """Since the beginning of the measured time."""
    cpu_cores: tuple[float, ...]
    """All processes of the server together, since the sample before."""
    memory_mib: tuple[float, ...]
    queued: tuple[int, ...]
    """Requests at Triton that no step is computing, from its metrics; -1: not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerFigures:
    """The server's side."""

    version: str
    """Triton's."""
    steps: tuple[StepFigures, ...]
    """In the order in which a request goes through them, each public name first."""
    processes: tuple[ProcessFigures, ...]
    """Empty where the server is not on this machine."""
    gpus: tuple[GpuFigures, ...]
    series: ServerSeries
    restarts: int
    """How often a count of Triton's went back, because the server was started again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorFigures:
    """How well the load was made: whether the other figures can be believed."""

    lag: Latency
    """From the moment a request of an open loop was due until it was sent."""
    cpu_cores: float
    """Mean number of cores that the generator itself kept busy."""
    is_on_time: bool
    """Whether its own lateness does not matter: p99 of the lag below 10 ms or a tenth of the median latency."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promised:
    """One clause of the promise, and whether it was kept."""

    clause: str
    """Such as ``p99 <= 500 ms``."""
    found: float
    """In the clause's unit."""
    kept: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One load, measured once."""

    began_s: float
    """Of the measured time, in seconds since 1970 (UTC)."""
    duration_s: float
    """That was really measured."""
    stopped_by: StopReason
    offered_rate: float
    """Requests a second that became due."""
    rate: float
    """Answers a second that came in the measured time, whenever they were asked for; errors not counted."""
    views_rate: float
    units_rate: float
    warm_up_errors: dict[str, int]
    together: KindFigures
    kinds: tuple[KindFigures, ...]
    series: Series
    server: ServerFigures | None
    """None: it could not be asked."""
    generator: GeneratorFigures
    promised: tuple[Promised, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One measurement of a search, in short."""

    rate: float
    """Requests a second that were asked for."""
    answered_rate: float
    p50_ms: float
    p99_ms: float
    error_share: float
    kept: bool
    is_on_time: bool
    """Whether the generator kept up; where it did not, the trial counts as broken, and the answer is a lower bound."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """All trials of one rate."""

    rate: float
    answered_rate: float
    """Median of the trials, here and below."""
    p50_ms: float
    p99_ms: float
    error_share: float
    kept: bool
    """By the majority."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchFigures:
    """What a search found."""

    highest_rate: float | None
    """The highest rate tried that keeps the promise; None: even the least rate breaks it."""
    broken_rate: float | None
    """The lowest rate tried above it that breaks it; None: even the highest rate of the scenario keeps it."""
    limited_by: Literal["promise", "range", "generator", "interrupted"]
    """What breaks the next rate; ``range``: nothing up to the scenario's highest; ``interrupted``: the search was ended
    before it knew."""
    trials: tuple[Trial, ...]
    """In the order of time."""
    curve: tuple[CurvePoint, ...]
    """By rate."""
    knee_rate: float | None
    """Where latency begins to grow faster than throughput; None: the curve has no knee."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Where the test ran; the server's machine too, where it is the same."""

    processor: str
    cores: int
    memory_gib: float
    system: str
    python: str
    versions: dict[str, str]
    """Of the packages that the figures depend on, as far as they are installed here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Everything of one load test."""

    schema_version: Literal[1]
    tubelet_version: str
    scenario: Scenario
    scenario_digest: str
    command: str
    machine: Machine
    contracts: dict[str, str]
    """Each model's contract digest, as the server told it."""
    measurement: Measurement
    """Of the scenario's own rates; after a search, of the highest rate that keeps the promise."""
    search: SearchFigures | None

    @property
    def is_kept(self) -> bool:
        """Whether anything was answered, and all that was promised was kept."""
        if self.search is not None and self.search.highest_rate is None:
            return False
        return self.measurement.together.answered > 0 and all(it.kept for it in self.measurement.promised)

    def save(self, path: Path) -> None:
        """Writes it as JSON; who reads meanwhile sees the old file or the new one."""
        save_json(self, path)

    @classmethod
    def load(cls, path: Path) -> Result:
        """Reads what `save` wrote.

        Raises:
            InvalidRequestError: ``bad_input``, the file cannot be read or is no result.
        """
        return load_json(cls, path, what="result")
