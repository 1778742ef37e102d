"""What else differs between two results, in sentences: whoever reads their comparison must know it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tubelet.loadtest.measured import Machine, Result

__all__ = ["describe_circumstances"]

_END = {"generator": "what the generator can send", "interrupted": "an interruption"}


def describe_circumstances(a: Result, b: Result, *, is_same_load: bool) -> Iterator[str]:
    """One sentence for each: address, contracts, machine, versions, and what makes figures doubtful.

    Args:
        a: before.
        b: after.
        is_same_load: whether both were measured at the same rates.
    """
    if not is_same_load:
        yield (
            f"The searches ended at other rates, so that the loads differ ({a.measurement.offered_rate:.4g} and "
            f"{b.measurement.offered_rate:.4g} requests a second) and figures of the requests are not judged."
        )
    for which, result in (("A", a), ("B", b)):
        yield from _doubts(which, result)
    if a.scenario.url != b.scenario.url:
        yield f"A asked {a.scenario.url}, B {b.scenario.url}."
    for model, one, other in _differing(a.contracts, b.contracts):
        yield f"The contract of {model} is {one} in A, {other} in B: it is not the same model."
    if a.tubelet_version != b.tubelet_version:
        yield f"A is of tubelet {a.tubelet_version}, B of {b.tubelet_version}."
    if a.measurement.server and b.measurement.server:
        one, other = a.measurement.server.version, b.measurement.server.version
        if one != other:
            yield f"Triton is {one} in A, {other} in B."
    if (machines := (_shown(a.machine), _shown(b.machine)))[0] != machines[1]:
        yield f"A ran on {machines[0]}; B on {machines[1]}."
    for package, one, other in _differing(a.machine.versions, b.machine.versions):
        yield f"{package} is {one} in A, {other} in B."


def _doubts(which: str, result: Result) -> Iterator[str]:
    measurement = result.measurement
    if measurement.stopped_by == "interrupted":
        yield f"{which} was interrupted after {measurement.duration_s:.4g} s."
    if not measurement.generator.is_on_time:
        yield f"In {which} the requests were sent late: its latencies hold the generator's own slowness."
    if result.search and result.search.limited_by in ("generator", "interrupted"):
        yield f"{which}'s highest rate is a lower bound: the search was ended by {_END[result.search.limited_by]}."


def _differing(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for key in sorted(a.keys() | b.keys()):
        one, other = a.get(key, "not there"), b.get(key, "not there")
        if one != other:
            yield key, one, other


def _shown(machine: Machine) -> str:
    return (
        f"{machine.processor} with {machine.cores} cores and {machine.memory_gib:g} GiB, {machine.system}, "
        f"Python {machine.python}"
    )
