"""`tubelet models` against a live server, over gRPC and HTTP."""

import json
import subprocess

import pytest
from real_server import TUBELET, Serving

from tubelet.clients import VideoClassifier

pytestmark = pytest.mark.needs_triton


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_what_is_served_is_listed(server: Serving, classifier: VideoClassifier, kind: str) -> None:
    command = [TUBELET, "models", "--url", server.ready[kind], "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    (line,) = map(json.loads, done.stdout.splitlines())
    contract = classifier.describe("motion").contract
    assert (line["model"], line["contract_digest"]) == ("motion", contract.digest)
    assert line["protocols"] == list(contract.protocols)
