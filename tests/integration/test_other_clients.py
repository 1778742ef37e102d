"""The examples for Node.js and Go, against a live server, called as their users call them."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest
from fence import TOKEN, Fence, fenced
from google.protobuf import descriptor_pb2
from real_server import ROOT, Serving
from test_front import free_ports
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tubelet.clients import Classification, VideoClassifier
from tubelet.preprocess.canary import canary_video

pytestmark = pytest.mark.needs_triton

CLIENTS = ROOT / "clients"
LARGE = 12_000_000
"""Bytes: more than gRPC takes without being told, and than Triton 2.51 takes of a form."""
NO_NETWORK = re.compile("ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EAI_AGAIN|ENETUNREACH|network")


@dataclass(frozen=True)
class Example:
    """How an example is called, and which of the server's two addresses it takes."""

    command: Sequence[str | Path]
    dash: str
    kind: str
    deadline: Sequence[str]
    """Options for a deadline of a millisecond."""
    certificates: str
    """The environment variable that names a file of trusted certificates."""

    def option(self, name: str, value: object) -> list[str]:
        return [f"{self.dash}{name}", str(value)]

    def run(self, url: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [*self.command, *self.option("url", url), *map(str, arguments)]
        # A proxy that nobody answers at: videos must not go there.
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY"), "http://127.0.0.1:9")
        told = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
        return subprocess.run(
            command, env={**told, **proxies, **environment}, capture_output=True, text=True, check=False, timeout=120
        )


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Example:
    if shutil.which("npm") is None:
        pytest.skip("Node.js and npm are not installed (Debian: nodejs npm)")
    folder = tmp_path_factory.mktemp("node")
    for name in ("classify.mjs", "open_inference.proto", "package.json", "package-lock.json"):
        shutil.copy(CLIENTS / "node" / name, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    if done.returncode and NO_NETWORK.search(done.stderr):
        pytest.skip("npm reaches no registry, so the packages of clients/node cannot be installed")
    assert done.returncode == 0, done.stderr
    command = ["node", str(folder / "classify.mjs")]
    roots = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
    return Example(command, "--", "grpc", ["--deadline-s", "0.001"], roots)


@pytest.fixture(scope="session")
def go(go_folder: Path) -> Example:
    run_go(go_folder, "go", "build", "-o", "classify", ".")
    return Example([go_folder / "classify"], "-", "http", ["-deadline", "1ms"], "SSL_CERT_FILE")


@pytest.fixture(scope="session")
def go_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("go") is None:
        pytest.skip("Go is not installed (Debian: golang-go)")
    return shutil.copytree(CLIENTS / "go", tmp_path_factory.mktemp("go") / "classify")


def run_go(folder: Path, *command: str) -> str:
    alone = {"GOCACHE": str(folder.parent / "cache"), "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **alone}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=["node", "go"])
def example(request: pytest.FixtureRequest) -> Example:
    found: Example = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def url(example: Example, server: Serving) -> str:
    return str(server.ready[example.kind])


@pytest.fixture(scope="module")
def clip(clips: Path) -> Path:
    (found,) = clips.glob("00000_left*.mp4")
    return found


def assert_equal(line: dict[str, Any], wanted: Classification) -> None:
    """Labels come from Triton with six decimals; logits are the very numbers."""
    np.testing.assert_array_equal(np.array(line["logits"], dtype=np.float32), wanted.logits)
    assert [label["name"] for label in line["labels"]] == [label.name for label in wanted.labels]
    assert [label["index"] for label in line["labels"]] == [label.index for label in wanted.labels]
    for label, other in zip(line["labels"], wanted.labels, strict=True):
        assert label["probability"] == pytest.approx(other.probability, abs=1e-5)
    assert line["report"]["protocol"] == wanted.report.protocol


@pytest.mark.parametrize("protocol", [None, "4x3"])
def test_answers_equal_those_of_the_python_client(
    example: Example, url: str, clips: Path, classifier: VideoClassifier, protocol: str | None
) -> None:
    videos = sorted(clips.glob("*.mp4"))[:4]
    wishes = example.option("protocol", protocol) if protocol else []
    done = example.run(url, f"{example.dash}json", *example.option("top", 3), *wishes, *videos)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    assert [line["video"] for line in lines] == [str(video) for video in videos]
    for line, video in zip(lines, videos, strict=True):
        assert_equal(line, classifier.classify(video, protocol=protocol, top=3))


def test_people_get_a_line_for_each_label(example: Example, url: str, clip: Path) -> None:
    done = example.run(url, *example.option("model", "motion"), *example.option("top", 2), clip)
    heading, first, _ = done.stdout.splitlines()
    assert heading.startswith(f"{clip}  1x1, ")
    probability, name = first.split()
    assert (name, float(probability) > 0.5) == ("left", True)


def test_a_bad_file_gives_its_code_and_the_others_are_classified(
    example: Example, url: str, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    done = example.run(url, tmp_path / "text.mp4", tmp_path / "missing.mp4", clip)
    assert done.returncode == 1
    text, missing = done.stderr.splitlines()
    assert text.startswith(f"error: {tmp_path / 'text.mp4'}: not_a_video: an encoded video is expected")
    assert missing.startswith(f"error: {tmp_path / 'missing.mp4'}: bad_input: ")
    assert done.stdout.startswith(f"{clip}  ")


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("protocol", "3x7", "bad_parameter: motion has no protocol '3x7'"),
        ("model", "nobody", "backend_lost: "),
        ("deadline", None, "deadline_exceeded: "),
    ],
)
def test_other_errors_have_their_code(
    example: Example, url: str, clip: Path, option: str, value: str | None, error: str
) -> None:
    arguments = example.deadline if value is None else example.option(option, value)
    done = example.run(url, *arguments, clip)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {clip}: {error}")


def test_nobody_there_is_said(example: Example, clip: Path) -> None:
    (port,) = free_ports(1)
    url = f"127.0.0.1:{port}" if example.kind == "grpc" else f"http://127.0.0.1:{port}"
    done = example.run(url, clip)
    assert done.returncode == 1
    assert "backend_lost: no server" in done.stderr
    assert "is 'tubelet serve' running?" in done.stderr


def test_a_server_that_says_nothing_is_not_waited_for_longer_than_the_deadline(example: Example, clip: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        url = address if example.kind == "grpc" else f"http://{address}"
        done = example.run(url, *example.deadline, clip)
    assert done.returncode == 1
    assert "deadline_exceeded: no answer came within the deadline" in done.stderr


def test_large_files_go_through(example: Example, url: str, server: Serving, large_video: Path) -> None:
    (triton,) = server.processes("bin/tritonserver")
    assert example.run(url, large_video).returncode == 0
    assert server.processes("bin/tritonserver") == [triton]


@pytest.fixture(scope="module")
def large_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    video = tmp_path_factory.mktemp("large") / "clip.mp4"
    video.write_bytes(canary_video() + LARGE.to_bytes(4, "big") + b"free" + bytes(LARGE - 8))
    return video


@pytest.mark.parametrize("name", ["top", "deadline", "nonsense", None])
def test_wrong_usage_has_an_exit_code_of_its_own(example: Example, url: str, name: str | None) -> None:
    if name == "deadline":
        name = example.deadline[0].lstrip("-")
    arguments = [*example.option(name, "-1x" if name == "nonsense" else "0"), "clip.mp4"] if name else []
    done = example.run(url, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


@pytest.fixture(scope="module")
def fence(server: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fence]:
    with fenced(server, tmp_path_factory.mktemp("fence")) as fence:
        yield fence


def test_a_token_goes_through_tls(example: Example, fence: Fence, clip: Path) -> None:
    url, trust = fence.url(example.kind), {example.certificates: str(fence.certificate)}
    known = example.run(url, clip, TUBELET_TOKEN=TOKEN, **trust)
    assert known.returncode == 0, known.stderr
    unknown = example.run(url, clip, **trust)
    assert unknown.returncode == 1
    assert "bad_parameter: this server wants to know who asks" in unknown.stderr
    assert example.run(url, clip, TUBELET_TOKEN=TOKEN).returncode == 1, "a certificate that nobody trusts was taken"


def test_no_proxy_of_the_environment_sees_a_video(example: Example, clip: Path) -> None:
    """The address is one that no program takes for its own machine's, and that never exists."""
    url = "tubelet.invalid:8000" if example.kind == "grpc" else "http://tubelet.invalid:8000"
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY")
        done = example.run(url, *example.deadline, clip, **dict.fromkeys(names, address))
        assert done.returncode == 1
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


class Refusing(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers every request with one error."""

    def __init__(self, status: grpc.StatusCode, words: str) -> None:
        self._error = (status, words)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> None:  # noqa: N802
        context.abort(*self._error)


class Verbose(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers with more than the 4 MiB that gRPC takes without being told."""

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:  # noqa: N802
        report = json.dumps({"protocol": "x" * (5 << 20), "milliseconds": {"total": 1}}).encode()
        answer = service_pb2.ModelInferResponse()
        texts = {"PROBABILITIES": b"0.75:3:up: the sky", "REPORT": report}
        for name, text in texts.items():
            answer.outputs.add(name=name, datatype="BYTES", shape=[1])
            answer.raw_output_contents.append(len(text).to_bytes(4, "little") + text)
        answer.outputs.add(name="LOGITS", datatype="FP32", shape=[1])
        answer.raw_output_contents.append(np.float32(1.5).tobytes())
        return answer


@contextmanager
def speaking(servicer: service_pb2_grpc.GRPCInferenceServiceServicer) -> Iterator[str]:
    """Runs a gRPC server; gives its address."""
    server = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_node_reads_large_answers_and_names_with_colons(node: Example, clip: Path) -> None:
    with speaking(Verbose()) as url:
        done = node.run(url, "--json", clip)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["labels"] == [{"name": "up: the sky", "index": 3, "probability": 0.75}]
    assert line["logits"] == [1.5]


FULL = "[request id: <id_unknown>] Exceeds maximum queue size"


@pytest.mark.parametrize(
    ("status", "words", "error"),
    [
        ("UNAVAILABLE", FULL, "overloaded: the server has too much to do"),
        ("UNAVAILABLE", "in ensemble 'm', Request timeout expired", "overloaded: the server has too much to do"),
        ("UNAVAILABLE", "Request for unknown model: 'motion' is not ready", "backend_lost: no server or model"),
        ("INTERNAL", "Traceback: /usr/lib/python", "backend_lost: the server lost the model"),
        ("UNAUTHENTICATED", "who are you", "bad_parameter: who are you"),
        ("PERMISSION_DENIED", "not you", "bad_parameter: not you"),
        ("RESOURCE_EXHAUSTED", "so many bytes", "too_large: so many bytes"),
        ("INVALID_ARGUMENT", "so many inputs", "bad_input: so many inputs"),
        ("INVALID_ARGUMENT", "in ensemble 'm', too_long: max_duration_s is 5", "too_long: max_duration_s is 5"),
        ("UNIMPLEMENTED", "no such method", "backend_lost: no such method"),
    ],
)
def test_node_gives_codes_to_what_has_none(node: Example, clip: Path, status: str, words: str, error: str) -> None:
    with speaking(Refusing(grpc.StatusCode[status], words)) as url:
        done = node.run(url, clip)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {clip}: {error}")


@pytest.mark.parametrize(
    ("status", "words", "error"),
    [
        (503, json.dumps({"error": FULL}), "overloaded: the server has too much to do"),
        (503, json.dumps({"error": "in ensemble 'm', Request timeout expired"}), "overloaded: the server has too much"),
        (429, "slowly", "overloaded: "),
        (500, json.dumps({"error": "Traceback: /usr/lib/python"}), "backend_lost: the server lost the model"),
        (401, "who are you", "bad_parameter: the server answered 401: who are you"),
        (413, "<html>", "too_large: the server answered 413"),
        (400, json.dumps({"error": "so many inputs"}), "bad_input: the server answered 400: so many inputs"),
        (400, json.dumps({"error": "in ensemble 'm', too_long: max_duration_s is 5"}), "too_long: max_duration_s is 5"),
        (502, "<html>", "backend_lost: the server answered 502"),
        (200, "<html>", "backend_lost: the server's answer cannot be read: it is not in the binary form"),
    ],
)
def test_go_gives_codes_to_what_has_none(go: Example, clip: Path, status: int, words: str, error: str) -> None:
    class Refusal(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(words)))
            self.end_headers()
            self.wfile.write(words.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusal) as server, ThreadPoolExecutor(1) as pool:
        answered = pool.submit(server.handle_request)
        done = go.run(f"http://127.0.0.1:{server.server_port}", clip)
        answered.result()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {clip}: {error}")


def test_go_is_formatted_and_vetted(go_folder: Path) -> None:
    assert run_go(go_folder, "gofmt", "-l", ".") == ""
    run_go(go_folder, "go", "vet", ".")


DUMP = """
import protoLoader from '@grpc/proto-loader';
const found = protoLoader.loadSync('open_inference.proto', { keepCase: true });
const files = found['inference.ModelInferRequest'].fileDescriptorProtos;
console.log(JSON.stringify(files.map((file) => file.toString('base64'))));
"""


def test_the_messages_of_node_are_those_of_the_protocol(node: Example) -> None:
    folder = Path(node.command[1]).parent
    command = ["node", "--input-type=module", "--eval", DUMP]
    printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    (ours,) = [descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text)) for text in json.loads(printed)]
    theirs = descriptor_pb2.FileDescriptorProto.FromString(service_pb2.DESCRIPTOR.serialized_pb)
    assert ours.package == theirs.package
    known = dict(fields_of(theirs))
    found = dict(fields_of(ours))
    assert found == {name: known[name] for name in found}
    methods = {method.name: (method.input_type, method.output_type) for method in theirs.service[0].method}
    assert {method.name for method in ours.service[0].method} >= {"ModelInfer"}
    for method in ours.service[0].method:
        wanted = tuple(name.rpartition(".")[2] for name in methods[method.name])
        assert (method.input_type.rpartition(".")[2], method.output_type.rpartition(".")[2]) == wanted


def fields_of(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, Any]]:
    """Each message by its full name, with name, number, kind and repetition of each of its fields."""
    pending = [(message.name, message) for message in file.message_type]
    while pending:
        name, message = pending.pop()
        # protobuf.js calls the entries of a map `parameters` Parameters, and protoc ParametersEntry.
        types = (x.type_name.rpartition(".")[2].removesuffix("Entry") for x in message.field)
        yield (
            name.removesuffix("Entry"),
            {(x.name, x.number, x.type, x.label, t) for x, t in zip(message.field, types, strict=True)},
        )
        pending += [(f"{name}.{nested.name}", nested) for nested in message.nested_type]
