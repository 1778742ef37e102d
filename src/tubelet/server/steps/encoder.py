"""Third step: encodes units; the units of all requests that wait together share the engine's batches."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tubelet.engines.base import Engine, EngineSettings
from tubelet.server.steps.backlog import Backlog
from tubelet.server.steps.base import Arrays, Step, check_deadline, read_inputs
from tubelet.spec.engine import graph_file
from tubelet.spec.errors import DeadlineError
from tubelet.spec.tensors import step_tensors

__all__ = ["TritonPythonModel", "chunk_size"]

_Chunk = list[tuple["_Job", slice]]

_RUNS_REMEMBERED = 9
"""Of which the pace is learned."""


@dataclass(slots=True)
class _Job:
    """One request's units, and how far the work on them has come."""

    units: NDArray[np.uint8]
    deadline: float
    encoded: NDArray[np.float32]
    """``[len(units), D or C]``, filled as the work goes on."""
    num_taken: int = 0
    started: float = 0.0
    ended: float = 0.0
    error: Exception | None = None

    @property
    def is_open(self) -> bool:
        return self.error is None and self.num_taken < len(self.units)

    def outputs(self, name: str) -> Arrays:
        if self.error is not None:
            raise self.error
        encoded_at = np.tile([self.started, self.ended], (len(self.units), 1))
        return {name: self.encoded, "ENCODED_AT": encoded_at}


class TritonPythonModel(Step):
    """UNITS uint8 ``[n, t, S, S, 3]`` -> FEATURES float32 ``[n, D]``, ENCODED_AT float64 ``[n, 2]`` (start, end).

    A joint model gives LOGITS ``[n, C]`` instead of FEATURES. The engine gets ``largest_batch`` units at most:
    enough to fill the cores, few enough to look at deadlines often and to keep within memory. In the mode
    ``throughput`` there are several streams, each of which works on a batch of its own.
    """

    name = "encoder"
    engine: Engine
    output: str
    width: int
    largest_batch: int
    num_streams: int
    backlog: Backlog
    ahead_s: ClassVar[float] = 0.5
    """How long what is decoded may wait: the encoder's work of so many seconds, where that is more than a batch."""

    def open(self) -> None:
        self.largest_batch = int(self.parameters["largest_batch"])
        running = self.running
        settings = EngineSettings.of_mode(running.engine, running.precision, running.mode)
        self.engine = self.open_graph(graph_file("encoder", running.precision), settings)
        self.num_streams = settings.streams
        self.backlog = Backlog(self.contract.name)
        self._paces: deque[float] = deque(maxlen=_RUNS_REMEMBERED)
        self._allow()
        # An engine keeps what it works on for each thread that calls it, so the threads stay.
        self._pool = ThreadPoolExecutor(self.num_streams)
        self._lock = Lock()
        spec = step_tensors(self.contract)["encoder"][1][0]
        self.output, (self.width,) = spec.name, spec.shape

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's entry: ``requests`` are those that the dynamic batcher put together."""
        started = time.monotonic()
        with self.metrics.running(len(requests)), self.backlog.taken():
            jobs = [self._job(read_inputs(request)) for request in requests]
            num_units = sum(len(job.units) for job in jobs)
            room = chunk_size(num_units, largest_batch=self.largest_batch, num_streams=self.num_streams)
            num_workers = min(self.num_streams, math.ceil(num_units / room))
            list(self._pool.map(lambda _: self._work(jobs, room), range(num_workers)))
            self._learn(sum(job.num_taken for job in jobs), time.monotonic() - started)
            return [self.answer(partial(job.outputs, self.output)) for job in jobs]

    def _learn(self, num_units: int, seconds: float) -> None:
        """Hears how fast a run was; one alone says little, and one in which every request's time was over nothing."""
        if num_units:
            self._paces.append(max(seconds, 1e-3) / num_units)
            self._allow()

    def _allow(self) -> None:
        """Lets so much be decoded ahead that every batch is full, and that the steps before it need not hurry."""
        # The median: one run that something held up must not have all others refused.
        units_per_s = 1 / median(self._paces) if self._paces else 0.0
        room = max(self.largest_batch * self.num_streams, round(self.ahead_s * units_per_s))
        self.backlog.allow(room, units_per_s=units_per_s)

    def _job(self, inputs: Arrays) -> _Job:
        units = inputs["UNITS"]
        encoded = np.empty((len(units), self.width), np.float32)
        return _Job(units, float(inputs["UNIT_DEADLINES"][0, 0]), encoded)

    def _work(self, jobs: list[_Job], room: int) -> None:
        """One stream's part: encodes chunk after chunk until none is left."""
        while True:
            with self._lock:
                chunk = _next_chunk(jobs, room=room)
            if not chunk:
                return
            self._encode(chunk)

    def _encode(self, chunk: _Chunk) -> None:
        started = time.monotonic()
        units = [job.units[rows] for job, rows in chunk]
        try:
            encoded = self.engine.run({"UNITS": units[0] if len(units) == 1 else np.concatenate(units)})[self.output]
        except Exception as exc:  # noqa: BLE001  engines raise what they like; only this chunk's requests fail
            for job, _ in chunk:
                job.error = exc
            return
        first = 0
        with self._lock:
            for job, rows in chunk:
                num_rows = rows.stop - rows.start
                job.encoded[rows] = encoded[first : first + num_rows]
                first += num_rows
                job.started = min(job.started or started, started)
                job.ended = time.monotonic()
            self.metrics.add("tubelet_units_encoded_total", first)
            self.metrics.add("tubelet_encoder_runs_total", 1)


def chunk_size(num_units: int, *, largest_batch: int, num_streams: int) -> int:
    """Units in one run of the engine, so that no stream stands idle while another has a run more to do."""
    if num_streams == 1:
        return largest_batch
    rounds = math.ceil(num_units / (largest_batch * num_streams))
    return max(1, min(largest_batch, math.ceil(num_units / max(1, rounds * num_streams))))


def _next_chunk(jobs: list[_Job], *, room: int) -> _Chunk:
    """The next units to encode together, in the order of the jobs; closes jobs whose time is over."""
    chunk: _Chunk = []
    for job in jobs:
        if not job.is_open or not room:
            continue
        try:
            check_deadline(job.deadline)
        except DeadlineError as exc:
            job.error = exc
            continue
        stop = min(len(job.units), job.num_taken + room)
        chunk.append((job, slice(job.num_taken, stop)))
        room -= stop - job.num_taken
        job.num_taken = stop
    return chunk
