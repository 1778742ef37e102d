"""Every file of the collection of real and hostile videos, through the server; after each one it answers as before."""

import csv
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from real_server import ROOT, Serving

from tubelet.clients import Classification, VideoClassifier
from tubelet.preprocess.canary import canary_video
from tubelet.spec.errors import InvalidVideoError, LimitError, TubeletError

pytestmark = pytest.mark.needs_triton

VIDEOS = ROOT.parent / "shared" / "videos"


def _rows() -> list[Any]:
    if not VIDEOS.is_dir():
        return [pytest.param({}, marks=pytest.mark.skip(reason="'shared/videos' does not lie beside the repository"))]
    with (VIDEOS / "MANIFEST.csv").open(encoding="utf-8") as file:
        return [pytest.param(row, id=row["file"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def good(classifier: VideoClassifier) -> Classification:
    return classifier.classify(canary_video())


@pytest.fixture(scope="module", autouse=True)
def processes_before(server: Serving) -> list[int]:
    return server.processes("triton")


@pytest.mark.parametrize("row", _rows())
def test_file(classifier: VideoClassifier, server: Serving, good: Classification, row: dict[str, str]) -> None:
    expected: set[str] = {row["expected"]} if row["strict"] == "yes" else {"ok", "error"}
    try:
        outcome: Classification | TubeletError = classifier.classify(VIDEOS / row["file"])
    except (InvalidVideoError, LimitError) as exc:
        outcome = exc
    if isinstance(outcome, Classification):
        assert "ok" in expected, outcome.report
        assert np.isfinite(outcome.logits).all()
        assert len(outcome.labels) == 5
    else:
        assert "error" in expected, outcome
        assert not any(path in str(outcome) for path in (str(server.repository), "site-packages", "Traceback"))
    np.testing.assert_array_equal(classifier.classify(canary_video()).logits, good.logits)
    with urlopen(f"{server.ready['http']}/v2/health/ready") as ready:
        assert ready.status == 200


def test_no_process_was_lost(server: Serving, processes_before: list[int]) -> None:
    """The processes that took all of them are those that were there before."""
    assert len(processes_before) >= 7  # tritonserver and six backends
    assert server.processes("triton") == processes_before
