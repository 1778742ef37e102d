"""What clients/curl and clients/README.md say, compared with a live server."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import pytest
import tritonclient.grpc
from fence import TOKEN, Fence, fenced
from real_server import ROOT, Serving
from test_front import free_ports

from tubelet.clients import VideoClassifier
from tubelet.preprocess.canary import canary_video

pytestmark = pytest.mark.needs_triton

CLIENTS = ROOT / "clients"
BLOCKS = re.findall(r"```sh\n(.*?)```", (CLIENTS / "curl" / "README.md").read_text(encoding="utf-8"), re.DOTALL)
TENSORS, SCRIPT, TLS = range(4, 7)
"""The blocks that test_examples.py leaves to this file."""

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clip.mp4").write_bytes(canary_video())
    shutil.copy(CLIENTS / "curl" / "classify.sh", tmp_path)
    return tmp_path


def run_shell(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-ec", script]
    told = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=told, capture_output=True, text=True, check=False, timeout=120)


@needs_curl
def test_curl_gets_the_numbers_themselves(server: Serving, folder: Path, classifier: VideoClassifier) -> None:
    block = BLOCKS[TENSORS].replace("localhost:8000", urlsplit(server.ready["http"]).netloc)
    done = run_shell(block, folder, no_proxy="*")
    assert done.returncode == 0, done.stderr
    wanted = classifier.classify(folder / "clip.mp4").logits
    np.testing.assert_array_equal(np.array(done.stdout.split(), dtype=np.float32), wanted)


@needs_curl
@pytest.mark.parametrize("hidden", [[], ["jq"], ["jq", "python3"]], ids=["jq", "python", "neither"])
def test_the_script_prints_labels(
    server: Serving, folder: Path, classifier: VideoClassifier, hidden: list[str], make_path: Callable[..., str]
) -> None:
    path = make_path(without=hidden)
    if not hidden and shutil.which("jq") is None:
        pytest.skip("jq is not installed (Debian: jq)")
    # A proxy that nobody answers at: videos must not go there.
    proxy = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    done = run_shell(BLOCKS[SCRIPT], folder, TUBELET_HTTP=server.ready["http"], PATH=path, **proxy)
    assert done.returncode == 0, done.stderr
    found = classifier.classify(folder / "clip.mp4", protocol="4x3")
    if "python3" in hidden:
        (output,) = json.loads(done.stdout)["outputs"]
        lines = [text.split(":")[::2] for text in output["data"]]
    else:
        lines = [line.split("  ") for line in done.stdout.splitlines()]
    assert [name for _, name in lines] == [label.name for label in found.labels]
    for (probability, _), label in zip(lines, found.labels, strict=True):
        assert float(probability) == pytest.approx(label.probability, abs=1e-5)


@pytest.fixture
def make_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A PATH on which stand the programs that the script needs, and those that it may use but for some."""

    def make(*, without: Sequence[str]) -> str:
        folder = tmp_path_factory.mktemp("bin")
        for program in {"sh", "curl", "wc", "cat", "jq", "python3"} - set(without):
            if (found := Path(sys.executable) if program == "python3" else shutil.which(program)) is not None:
                (folder / program).symlink_to(found)
        return str(folder)

    return make


@needs_curl
def test_the_script_fails_with_a_code(server: Serving, folder: Path) -> None:
    (folder / "text.mp4").write_text("not a video")
    for arguments, code in (("text.mp4", "not_a_video: "), ("clip.mp4 3x7", "bad_parameter: ")):
        done = run_shell(f"./classify.sh {arguments}", folder, TUBELET_HTTP=server.ready["http"])
        assert (done.returncode, done.stdout) == (1, "")
        assert code in json.loads(done.stderr)["error"]
    (port,) = free_ports(1)
    done = run_shell("./classify.sh clip.mp4", folder, TUBELET_HTTP=f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert "connect" in done.stderr
    assert run_shell("./classify.sh", folder).returncode == 2


@pytest.fixture(scope="module")
def fence(server: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fence]:
    with fenced(server, tmp_path_factory.mktemp("fence")) as fence:
        yield fence


@needs_curl
def test_curl_goes_through_tls_with_a_token(fence: Fence, folder: Path) -> None:
    shutil.copy(fence.certificate, folder)
    (folder / "token").write_text(f"Authorization: Bearer {TOKEN}\n")
    block = BLOCKS[TLS].replace("localhost:8443", f"localhost:{fence.http}")
    assert block != BLOCKS[TLS]
    done = run_shell(block, folder, no_proxy="*")
    assert len(json.loads(done.stdout)["top"]) == 5
    told = {"TUBELET_HTTP": fence.url("http"), "CURL_CA_BUNDLE": str(fence.certificate)}
    assert run_shell("./classify.sh clip.mp4", folder, TUBELET_TOKEN=TOKEN, **told).returncode == 0
    unknown = run_shell("./classify.sh clip.mp4", folder, **told)
    assert unknown.returncode == 1
    assert json.loads(unknown.stderr)["error"].startswith("bad_parameter: ")


PAGE = (CLIENTS / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("code", "video", "parameters"),
    [
        ("bad_parameter", None, {"protocol": "3x7"}),
        ("bad_parameter", None, {"top": "5"}),
        ("bad_parameter", None, {"start_s": "-1"}),
        ("empty_video", b"", {}),
        ("not_a_video", b"not a video", {}),
        ("truncated", canary_video()[:2000], {}),
        ("too_many_views", None, {"protocol": "65x1"}),
        ("deadline_exceeded", None, {"deadline_ms": "0.001"}),
    ],
)
def test_codes_come_with_the_status_that_the_page_says(
    server: Serving, code: str, video: bytes | None, parameters: dict[str, str]
) -> None:
    video = canary_video() if video is None else video
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `") and f"`{code}`" in line.split("|")[1]]
    _, _, http, grpc, *_ = (cell.strip() for cell in row.split("|"))
    status, text = ask_http(server, "motion", video, parameters)
    assert (str(status), f"{code}: " in text) == (http, True)
    assert ask_grpc(server, "motion", video, parameters) == (f"StatusCode.{grpc}", text)


def test_what_the_page_says_of_tritons_own_errors(server: Serving) -> None:
    for what, model in (("no such model", "nobody"), ("a tensor is missing", "motion_frames")):
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {what}")]
        _, _, http, grpc, *_ = (cell.strip() for cell in row.split("|"))
        assert str(ask_http(server, model, canary_video(), {})[0]) == http
        assert ask_grpc(server, model, canary_video(), {})[0] == f"StatusCode.{grpc}"


def ask_http(server: Serving, model: str, video: bytes, parameters: dict[str, str]) -> tuple[int, str]:
    """Status and error of a request in the binary form."""
    size = {"binary_data_size": len(video) + 4}
    inputs = [{"name": "VIDEO", "datatype": "BYTES", "shape": [1], "parameters": size}]
    head = json.dumps({"parameters": parameters, "inputs": inputs}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    url = f"{server.ready['http']}/v2/models/{model}/infer"
    request = Request(url, head + len(video).to_bytes(4, "little") + video, headers)
    with pytest.raises(HTTPError) as raised:
        build_opener(ProxyHandler({})).open(request)
    with raised.value as error:
        return error.code, json.loads(error.read())["error"]


def ask_grpc(server: Serving, model: str, video: bytes, parameters: dict[str, str]) -> tuple[str, str]:
    """Status and error of the same request."""
    tensor = tritonclient.grpc.InferInput("VIDEO", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([video], dtype=np.object_))
    with (
        tritonclient.grpc.InferenceServerClient(server.ready["grpc"]) as client,
        pytest.raises(tritonclient.utils.InferenceServerException) as raised,
    ):
        client.infer(model, [tensor], parameters=parameters)
    return raised.value.status(), raised.value.message()
