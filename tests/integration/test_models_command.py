"""`tubelet models` and the other commands that ask servers, plainly and through a proxy with TLS and a token."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fence import TOKEN, Fence, fenced
from real_server import TUBELET, Serving

from tubelet.cli import main
from tubelet.clients import VideoClassifier
from tubelet.preprocess.canary import canary_video

pytestmark = pytest.mark.needs_triton


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_what_is_served_is_listed(server: Serving, classifier: VideoClassifier, kind: str) -> None:
    command = [TUBELET, "models", "--url", server.ready[kind], "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    (line,) = map(json.loads, done.stdout.splitlines())
    contract = classifier.describe("motion").contract
    assert (line["model"], line["contract_digest"]) == ("motion", contract.digest)
    assert line["protocols"] == list(contract.protocols)


@pytest.fixture(scope="module")
def fence(server: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fence]:
    with fenced(server, tmp_path_factory.mktemp("fence")) as fence:
        yield fence


def ask(*arguments: object, **environment: str) -> Result:
    """In this process, since each command would take seconds to start."""
    return CliRunner(env=environment).invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", ["grpc", "http"])
class TestThroughTheProxy:
    @pytest.fixture
    def commands(self, tmp_path: Path) -> list[list[object]]:
        """One of each command that asks servers; over HTTP the proxy keeps the list of models to itself."""
        video, listed = tmp_path / "canary.mp4", tmp_path / "list.csv"
        video.write_bytes(canary_video())
        listed.write_text("video,label\ncanary.mp4,0\n")
        model = ["--model", "motion"]
        return [
            ["models", "motion"],
            ["classify", video, *model],
            ["score", video, "--out", tmp_path / "rows", "--patience-s", 5, *model],
            ["evaluate", listed, *model],
        ]

    def test_with_a_token(self, fence: Fence, kind: str, commands: list[list[object]]) -> None:
        server = ["--url", fence.url(kind), "--ca-file", fence.certificate]
        for command in commands:
            done = ask(*command, *server, "--json", TUBELET_HEADERS=f"authorization=Bearer {TOKEN}")
            assert done.exit_code == 0, (command, done.stderr)
            assert json.loads(done.stdout.splitlines()[0])
        header = ["--header", f"authorization=Bearer {TOKEN}"]
        assert ask("models", "motion", *server, *header).exit_code == 0

    def test_without_one(self, fence: Fence, kind: str, commands: list[list[object]]) -> None:
        for command in commands:
            done = ask(*command, "--url", fence.url(kind), "--ca-file", fence.certificate)
            assert (done.exit_code, done.stdout) == (1, ""), command
            assert "bad_parameter: this server wants to know who asks" in done.stderr, command

    def test_with_a_certificate_and_without_tls(self, fence: Fence, kind: str, commands: list[list[object]]) -> None:
        plain = fence.url(kind).replace("s://", "://")
        for command in commands:
            done = ask(*command, "--url", plain, "--ca-file", fence.certificate)
            assert (done.exit_code, done.stdout) == (1, ""), command
            assert "is no address with TLS" in done.stderr, command

    def test_without_its_certificate(self, fence: Fence, kind: str) -> None:
        done = ask("models", "motion", "--url", fence.url(kind))
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith("error: bad_parameter: no trust in the server's certificate")
