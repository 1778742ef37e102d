"""How figures of a load test are written, on a terminal and on a page alike: three digits, and the unit that fits."""

from __future__ import annotations

from collections.abc import Mapping

from tubelet.loadtest.measured import Latency, StepFigures

__all__ = [
    "NOTHING",
    "counted",
    "describe_codes",
    "describe_share",
    "describe_time_ms",
    "formed_batches",
    "number",
    "time_or_none",
]

NOTHING = "\N{EN DASH}"
"""Where there is no figure."""


def number(value: float) -> str:
    """Three digits, and all of those before the point: ``2,003``, ``41.2``, ``0.125``; below a tenth two: ``0.012``.

    Only 0 is shown as 0.
    """
    size = abs(float(f"{value:.3g}"))
    if size < 0.1:
        return f"{value:.2g}"
    if size < 1:
        return f"{value:.3g}"
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def counted(count: int, one: str, several: str | None = None) -> str:
    """``1 request``, ``2,003 requests``."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def describe_time_ms(milliseconds: float) -> str:
    """``0.42 ms``, ``12.3 ms``, ``1.25 s``."""
    if abs(float(f"{milliseconds:.3g}")) >= 1000:
        return f"{number(milliseconds / 1000)} s"
    return f"{number(milliseconds)} ms"


def time_or_none(latency: Latency, milliseconds: float) -> str:
    """A figure of a distribution; a dash where the distribution is empty."""
    return describe_time_ms(milliseconds) if latency.count else NOTHING


def describe_share(part: float, whole: float) -> str:
    """``0 %``, ``0.125 %``, ``100 %``; a dash of nothing."""
    return f"{number(100 * part / whole)} %" if whole else NOTHING


def describe_codes(errors: Mapping[str, int]) -> str:
    """``queue_full 10, deadline_exceeded 2``."""
    return ", ".join(f"{code} {count:,}" for code, count in errors.items())


def formed_batches(step: StepFigures) -> tuple[float, int] | None:
    """The mean and the largest batch of a step; None: it formed none."""
    executions = {int(size): count for size, count in step.batch_sizes.items() if count}
    if not executions:
        return None
    return sum(size * count for size, count in executions.items()) / sum(executions.values()), max(executions)
