"""What a load test says in one sentence, and what must be said before anybody believes it."""

from __future__ import annotations

from collections.abc import Sequence

from tubelet.loadtest.measured import Measurement, Promised, Result, SearchFigures
from tubelet.loadtest.promise import parse_promise
from tubelet.loadtest.quantities import counted, describe_codes, describe_time_ms, number
from tubelet.loadtest.recording import NOT_SENT

__all__ = ["describe_cautions", "describe_clause", "describe_notes", "describe_verdict"]


def describe_verdict(result: Result) -> str:
    """One sentence: whether the promise was kept, and by what it was broken; after a search, its answer."""
    measurement = result.measurement
    if result.search is not None:
        return _searched(result.search, result.scenario.promise or "", measurement)
    if not measurement.together.requests:
        return "No request was due in the measured time."
    if not measurement.together.answered:
        return f"Not one of {counted(measurement.together.requests, 'request')} was answered."
    if broken := [it for it in measurement.promised if not it.kept]:
        return f"The promise was broken: {_listed(broken)}."
    if measurement.promised:
        return f"The promise was kept: {_listed(measurement.promised)}."
    together = measurement.together
    return f"{together.answered:,} of {counted(together.requests, 'request')} were answered; nothing was promised."


def describe_cautions(result: Result) -> list[str]:
    """Why the figures cannot be trusted; none where they can."""
    measurement, cautions = result.measurement, []
    if measurement.stopped_by == "interrupted":
        cut_off = measurement.together.cut_off
        under_way = (
            f" {counted(cut_off, 'request')} under way {'is' if cut_off == 1 else 'are'} in none of them."
            if cut_off
            else ""
        )
        cautions.append(
            f"The test was interrupted after {number(measurement.duration_s)} s of {result.scenario.duration_s:g} s: "
            f"its figures cannot be trusted.{under_way}"
        )
    if not measurement.generator.is_on_time:
        lag = measurement.generator.lag
        cautions.append(
            f"The generator was late: it sent one request in a hundred {describe_time_ms(lag.p99_ms)} or more after "
            "it was due. Latency and rates hold its own slowness, and cannot be trusted."
        )
    if measurement.server is not None and measurement.server.restarts:
        cautions.append(
            f"The server was started again {counted(measurement.server.restarts, 'time')} during the test: what its "
            "side is said to have done is what it counted since."
        )
    return cautions


def describe_notes(result: Result) -> list[str]:
    """What else a reader should know of how it was measured."""
    measurement, notes = result.measurement, []
    if measurement.stopped_by == "count":
        notes.append(
            f"The test ended after {number(measurement.duration_s)} s of {result.scenario.duration_s:g} s, with the "
            f"last of {counted(result.scenario.most_requests, 'request')} that the scenario allows."
        )
    if not_sent := measurement.together.errors.get(NOT_SENT, 0):
        notes.append(
            f"{counted(not_sent, 'request')} {'was' if not_sent == 1 else 'were'} due while "
            f"{result.scenario.most_in_flight:,} were in flight, the most that the scenario allows: not sent, and "
            f"counted as errors ({NOT_SENT})."
        )
    if measurement.warm_up_errors:
        failed = sum(measurement.warm_up_errors.values())
        notes.append(
            f"{counted(failed, 'request')} failed during the warm-up, in no figure here: "
            f"{describe_codes(measurement.warm_up_errors)}."
        )
    return notes


def describe_clause(it: Promised) -> str:
    """``p99 <= 500 ms: 123 ms, kept``."""
    return f"{it.clause}: {_found(it)}, {'kept' if it.kept else 'broken'}"


def _searched(search: SearchFigures, promise: str, measurement: Measurement) -> str:
    if search.highest_rate is None:
        if search.limited_by == "generator":
            return f"No rate is known to keep {promise}: the generator could not make the least one."
        if search.limited_by == "interrupted":
            return f"The search was interrupted before it knew a rate that keeps {promise}."
        return f"No rate that the scenario tries keeps {promise}{_broken_from(search)}."
    rate = number(search.highest_rate)
    match search.limited_by:
        case "promise":
            said = f"{rate} requests a second keep {promise}{_broken_from(search)}"
        case "range":
            said = f"{rate} requests a second, the most that the scenario tries, keep {promise}"
        case "generator":
            said = f"{rate} requests a second or more keep {promise}; the generator could not make more"
        case "interrupted":
            said = (
                f"{rate} requests a second keep {promise}; the search was interrupted before it knew the highest rate"
            )
    if broken := [it for it in measurement.promised if not it.kept]:
        said += f". Measured once more at that rate, it was broken: {_listed(broken)}"
    return f"{said}."


def _broken_from(search: SearchFigures) -> str:
    if search.broken_rate is None:
        return ""
    verb = "breaks" if search.highest_rate is None else "break"
    return f"; {'even ' if search.highest_rate is None else ''}{number(search.broken_rate)} a second {verb} it"


def _listed(clauses: Sequence[Promised]) -> str:
    return ", ".join(f"{it.clause} (found {_found(it)})" for it in clauses)


def _found(it: Promised) -> str:
    """In the unit of its clause."""
    (clause,) = parse_promise(it.clause)
    return f"{number(it.found)} {clause.unit}"
