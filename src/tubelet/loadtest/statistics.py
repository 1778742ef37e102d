"""What Triton itself counted of a model and its steps, as differences over the measured time.

How Triton 2.51 counts, seen with known requests (tests/integration/test_watching.py):

- A public name is an ensemble. Its requests are those that were answered, the canaries of ``tubelet serve`` (one for
  each model every five seconds or more) among them. Its input, compute and output are the sums of its steps', its queue
  is only its own, where nothing waits: the waiting is in the steps' queues, and in its total.
- An ensemble's failure is counted twice, whatever failed; here each is one. A request that is refused before it
  begins, for a name or a shape that the model does not have, is counted nowhere.
- A step that answers a request with an error has done its work, and counts a success. Its failures are those whose time
  ended in its queue. Those that its full queue refused are in no count of the step.
- A step that batches computes for several requests at a time, and each of them counts the whole of that time.
- The counts begin with 0 when the server is started again, its warm-up and first canaries are in them; what it did
  between the last sample and its end is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tubelet.loadtest.measured import StepFigures

__all__ = ["Counts", "ServedStep", "Tally", "read_counts", "steps_behind"]

Counts = Counter[str | int]
"""Of one model since it was loaded: requests, failures, executions, nanoseconds; by number: executions by batch."""

_TIMES = {
    "total": "success",
    "queue": "queue",
    "input": "compute_input",
    "compute": "compute_infer",
    "output": "compute_output",
}
"""Our names of Triton's times, which are sums over the requests that succeeded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedStep:
    """A model of Triton's that a scenario's requests go through."""

    name: str
    is_public: bool
    is_ensemble: bool


def steps_behind(configs: Iterable[Any]) -> tuple[ServedStep, ...]:
    """The public names and the steps behind each, in the order of the ensembles' steps; a shared one stands once.

    Args:
        configs: of the public names, ``ModelConfig`` of Triton's.
    """
    found: dict[str, ServedStep] = {}
    for config in configs:
        inner = [step.model_name for step in config.ensemble_scheduling.step]
        found.setdefault(config.name, ServedStep(name=config.name, is_public=True, is_ensemble=bool(inner)))
        for name in inner:
            found.setdefault(name, ServedStep(name=name, is_public=False, is_ensemble=False))
    return tuple(found.values())


def read_counts(answer: Any) -> dict[str, Counts]:
    """The counts of every model, all its versions together.

    Args:
        answer: ``ModelStatisticsResponse`` of Triton's.
    """
    found: dict[str, Counts] = {}
    for model in answer.model_stats:
        counts, statistics = found.setdefault(model.name, Counter()), model.inference_stats
        counts["requests"] += statistics.success.count
        counts["failures"] += statistics.fail.count
        counts["executions"] += model.execution_count
        for ours, theirs in _TIMES.items():
            counts[ours] += getattr(statistics, theirs).ns
        for batch in model.batch_stats:
            counts[batch.batch_size] += batch.compute_infer.count
    return found


class Tally:
    """Adds up what was counted between readings, across restarts of the server."""

    def __init__(self) -> None:
        self.restarts = 0
        """Readings in which a count was lower than before."""
        self._last: dict[str, Counts] | None = None
        self._grown: dict[str, Counts] = {}

    def take(self, reading: dict[str, Counts]) -> None:
        """Takes the counts of a moment; what was counted before the first reading is not ours."""
        if self._last is None:
            self._last = reading
            return
        went_back = False
        for name, counts in reading.items():
            before = self._last.get(name, Counter())
            if any(counts[key] < number for key, number in before.items()):
                before, went_back = Counter(), True
            grown = self._grown.setdefault(name, Counter())
            for key, number in counts.items():
                grown[key] += number - before[key]
        self.restarts += went_back
        self._last = {**self._last, **reading}

    def figures(self, steps: Sequence[ServedStep]) -> tuple[StepFigures, ...]:
        """Figures of those steps of which there were two readings."""
        return tuple(_figures(step, self._grown[step.name]) for step in steps if step.name in self._grown)


def _figures(step: ServedStep, counts: Counts) -> StepFigures:
    requests = counts["requests"]
    means = {f"{name}_ms": counts[name] / requests / 1e6 if requests else 0.0 for name in _TIMES}
    batches = sorted((key, number) for key, number in counts.items() if isinstance(key, int) and number)
    return StepFigures(
        name=step.name,
        is_public=step.is_public,
        requests=requests,
        # A reading between the two counts of one failure makes an odd number.
        failures=(counts["failures"] + 1) // 2 if step.is_ensemble else counts["failures"],
        executions=counts["executions"],
        batch_sizes={str(size): number for size, number in batches},
        **means,
    )
