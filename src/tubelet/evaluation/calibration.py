"""Whether probabilities mean what they say.

Expected calibration error as in Guo et al., *On Calibration of Modern Neural Networks* (arXiv:1706.04599), equations
2, 3 and 5, with their 15 bins: the n answered videos fall into M bins by the probability of their best class, bin m
those in ((m-1)/M, m/M], and the error is the sum over the bins of |B_m| / n * |acc(B_m) - conf(B_m)|, with acc the
share of right ones and conf the mean probability. The negative log likelihood is their equation 4, divided by n.
"""

from __future__ import annotations

import numpy as np

from tubelet.evaluation.ranking import Ranking
from tubelet.evaluation.result import Calibration, CalibrationBin

__all__ = ["calibration_of"]

_NUM_BINS = 15


def calibration_of(ranking: Ranking) -> Calibration | None:
    """Calibration over the answered videos; None: there are none."""
    if not ranking.answered.any():
        return None
    confidence = ranking.probability[ranking.answered]
    right = (ranking.rank[ranking.answered] == 0).astype(np.float64)
    edges = np.linspace(0, 1, _NUM_BINS + 1)
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, _NUM_BINS - 1)
    counts = np.bincount(places, minlength=_NUM_BINS)
    sums = [np.bincount(places, weights=values, minlength=_NUM_BINS) for values in (confidence, right)]
    return Calibration(
        negative_log_likelihood=float(-ranking.log_likelihood[ranking.answered].mean()),
        expected_calibration_error=float(np.abs(sums[1] - sums[0]).sum() / len(confidence)),
        bins=tuple(
            CalibrationBin(
                low=float(edges[i]),
                high=float(edges[i + 1]),
                count=int(counts[i]),
                confidence=float(sums[0][i] / counts[i]) if counts[i] else None,
                accuracy=float(sums[1][i] / counts[i]) if counts[i] else None,
            )
            for i in range(_NUM_BINS)
        ),
    )
