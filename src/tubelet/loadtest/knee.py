"""Where a curve of latency over load bends.

Kneedle: Satopaa, Albrecht, Irwin, Raghavan, *Finding a "Kneedle" in a Haystack: Detecting Knee Points in System
Behavior* (2011), for a convex curve that rises: both axes are brought to 0..1, and the knee is where the curve lies
furthest below its diagonal, if it comes back towards it by more than the mean step of the x axis (the paper's
threshold, at sensitivity 1). Of several knees the most pronounced is taken. The paper's spline is left out: points are
few here, and each was measured on purpose. The library for it (kneed) would bring scipy for these twenty lines.

Latency is taken by its logarithm. A rate beyond what the server can do has no latency of its own: the queue grows as
long as the trial lasts, and one such point a hundred times above the others would press all else flat and make itself
the knee. By the logarithm a knee is where another share of load begins to *multiply* the latency, and it hardly moves
when trials last longer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["find_knee"]

_LEAST_POINTS = 4
_LEAST_GROWTH = 2.0
"""A curve that does not even double is flat: without a queue, latency varies by itself."""


def find_knee(rates: Sequence[float], latencies: Sequence[float]) -> float | None:
    """The rate at the knee.

    Args:
        rates: ``[N]``, load, rising, each once.
        latencies: ``[N]``, in any unit; points that are 0, as nothing was answered there, are passed over.

    Returns:
        One of the rates; None where fewer than four points are left, latency does not double from its lowest to its
        highest, or the bend is no more than the unevenness of the points.
    """
    points = [(rate, latency) for rate, latency in zip(rates, latencies, strict=True) if latency > 0]
    if len(points) < _LEAST_POINTS:
        return None
    x, y = np.array([point[0] for point in points]), np.log([point[1] for point in points])
    if np.ptp(y) < np.log(_LEAST_GROWTH):
        return None
    x = (x - x[0]) / (x[-1] - x[0])
    below = x - (y - y.min()) / np.ptp(y)
    knee = int(below.argmax())
    threshold = below[knee] - np.diff(x).mean()
    is_bend = 0 < knee < len(points) - 1 and below[knee:].min() < threshold
    return points[knee][0] if is_bend else None
