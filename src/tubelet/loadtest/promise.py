"""What a scenario promises, as text: clauses such as ``p99 <= 500 ms, errors <= 0.1 %, interactive p99 <= 1 s``.

Clauses are separated by commas, and each is ``[NAME] QUANTITY <=|>= NUMBER UNIT``. NAME is a stream's or a request
kind's; without one the clause is about all requests together. What is promised:

==================================  =============  =============================================================
quantity                            as             of
==================================  =============  =============================================================
p50 p90 p95 p99 p99.9 max mean      ``<=``, ms, s  latency
errors                              ``<=``, %      requests that ended in an error; what was cut off is left out
rate                                ``>=``, /s     answers a second
goodput                             ``>=``, %      requests that were due and got an answer; what was cut off got none
==================================  =============  =============================================================

A promise about nothing is not kept: where no request was answered (``errors``, ``goodput``: none ended, none was due),
the clause is broken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tubelet.loadtest.histograms import from_text, new_histogram, summary
from tubelet.loadtest.measured import KindFigures, Latency, Measurement, Promised
from tubelet.loadtest.scenario import Scenario
from tubelet.spec.errors import ScenarioError

__all__ = ["Clause", "check_names", "error_share", "judge", "parse_promise"]

_EXAMPLE = "p99 <= 500 ms, errors <= 0.1 %, interactive p99 <= 1 s, rate >= 20 /s"

_LATENCIES = {
    "p50": "p50_ms",
    "p90": "p90_ms",
    "p95": "p95_ms",
    "p99": "p99_ms",
    "p99.9": "p999_ms",
    "max": "max_ms",
    "mean": "mean_ms",
}
_FORMS = {
    **dict.fromkeys(_LATENCIES, ("<=", ("ms", "s"))),
    "errors": ("<=", ("%",)),
    "rate": (">=", ("/s",)),
    "goodput": (">=", ("%",)),
}
"""Of each quantity, from which side it is promised, and its units."""

_CLAUSE = re.compile(
    rf"(?:(?P<name>[^\s<>=][^<>=]*?)\s+)?(?P<quantity>{'|'.join(map(re.escape, _FORMS))})\s*"
    r"(?P<sign><=|>=)\s*(?P<limit>\d+(?:\.\d+)?)\s*(?P<unit>[^\s\d.]\S*)",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Clause:
    """One clause; its text is the form in which it is shown."""

    name: str | None
    """A stream's or a request kind's; None: all together."""
    quantity: str
    limit: float
    """In ``unit``."""
    unit: str

    @property
    def is_upper(self) -> bool:
        """Whether what is found must not be above the limit; else it must not be below."""
        return _FORMS[self.quantity][0] == "<="

    def __str__(self) -> str:
        name = "" if self.name is None else f"{self.name} "
        return f"{name}{self.quantity} {_FORMS[self.quantity][0]} {self.limit:.12g} {self.unit}"


def parse_promise(text: str) -> tuple[Clause, ...]:
    """The clauses of a promise; of a text with nothing in it none.

    Raises:
        ScenarioError: ``bad_scenario``, what was expected in place of which clause.
    """
    return tuple(_parse(clause.strip()) for clause in text.split(",")) if text.strip() else ()


def check_names(clauses: Sequence[Clause], scenario: Scenario) -> None:
    """Refuses a promise about what is not in the scenario.

    Raises:
        ScenarioError: ``bad_scenario``, a name that is no stream's and no request kind's, or means two things.
    """
    streams = {stream.name: {kind.name for kind in stream.requests} for stream in scenario.streams}
    kinds = {kind.name for _, kind in scenario.kinds}
    for clause in clauses:
        if clause.name is None:
            continue
        if clause.name not in streams.keys() | kinds:
            raise ScenarioError(
                "bad_scenario",
                f"the promise {str(clause)!r} names {clause.name!r}; the scenario has the streams "
                f"{', '.join(streams)} and the requests {', '.join(sorted(kinds))}",
            )
        if clause.name in kinds and streams.get(clause.name, {clause.name}) != {clause.name}:
            raise ScenarioError(
                "bad_scenario",
                f"the promise {str(clause)!r} may mean the stream or the request {clause.name!r}; rename one of them",
            )


def judge(clauses: Sequence[Clause], measurement: Measurement) -> tuple[Promised, ...]:
    """What was found of each clause, in its unit, and whether it was kept; 0 is found where there is nothing."""
    return tuple(_judged(clause, measurement) for clause in clauses)


def error_share(kinds: Sequence[KindFigures]) -> float:
    """Of the requests that ended, how many ended in an error, from 0 to 1; 0 where none ended."""
    failed = sum(sum(kind.errors.values()) for kind in kinds)
    return failed / max(1, failed + sum(kind.answered for kind in kinds))


def _parse(text: str) -> Clause:
    match = _CLAUSE.fullmatch(text)
    if match is None:
        raise ScenarioError(
            "bad_scenario",
            f"a clause of a promise is [NAME] QUANTITY <=|>= NUMBER UNIT; QUANTITY is one of {', '.join(_FORMS)}; "
            f"got {text!r}. An example: {_EXAMPLE}",
        )
    quantity, unit, limit = match["quantity"], match["unit"], float(match["limit"])
    sign, units = _FORMS[quantity]
    if match["sign"] != sign or unit not in units:
        raise ScenarioError(
            "bad_scenario",
            f"{quantity} is promised as {quantity} {sign} NUMBER {' or '.join(units)}; got {text!r}",
        )
    if unit == "%" and limit > 100:
        raise ScenarioError("bad_scenario", f"a share is at most 100 %; got {text!r}")
    return Clause(name=match["name"], quantity=quantity, limit=limit, unit=unit)


def _judged(clause: Clause, measurement: Measurement) -> Promised:
    found = _found(clause, measurement)
    kept = found is not None and (found <= clause.limit if clause.is_upper else found >= clause.limit)
    return Promised(clause=str(clause), found=found or 0.0, kept=kept)


def _found(clause: Clause, measurement: Measurement) -> float | None:
    """None: there is nothing to tell it from."""
    kinds: tuple[KindFigures, ...] = (measurement.together,)
    if clause.name is not None:
        kinds = tuple(kind for kind in measurement.kinds if clause.name in (kind.name, kind.stream))
    answered, failed = sum(kind.answered for kind in kinds), sum(sum(kind.errors.values()) for kind in kinds)
    if clause.quantity == "errors":
        return 100 * error_share(kinds) if answered + failed else None
    if clause.quantity == "goodput":
        due = sum(kind.requests for kind in kinds)
        return 100 * answered / due if due else None
    if not answered:
        return None
    if clause.quantity == "rate":
        return measurement.rate * answered / measurement.together.answered
    found: float = getattr(_latency(kinds), _LATENCIES[clause.quantity])
    return found if clause.unit == "ms" else found / 1000


def _latency(kinds: Sequence[KindFigures]) -> Latency:
    if len(kinds) == 1:
        return kinds[0].latency
    together = new_histogram()
    for kind in kinds:
        together.add(from_text(kind.latency.histogram))
    return summary(together)
