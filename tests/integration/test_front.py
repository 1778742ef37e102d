"""The nginx that stands before the wheel's Triton: a real one, with the file that compose and Kubernetes mount."""

import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import tritonclient.grpc
from real_server import ROOT, Serving

from tubelet.clients import VideoClassifier
from tubelet.preprocess.canary import canary_video
from tubelet.spec.errors import InvalidRequestError, LimitError

pytestmark = pytest.mark.needs_triton

RAW = {"Inference-Header-Content-Length": "0"}


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Front:
    """nginx on free ports, its Triton's ports put in the place of 8000 to 8002; it writes into ``folder`` only."""

    def __init__(self, folder: Path, serving: Serving, *, change: tuple[str, str] = ("", "")) -> None:
        self.http, self.grpc, self.inside = free_ports(3)
        text = (ROOT / "server" / "proxy" / "nginx.conf").read_text(encoding="utf-8")
        assert change[0] in text
        text = text.replace(*change)
        for usual, kind in (("8000", "http"), ("8001", "grpc"), ("8002", "metrics")):
            port = serving.ready[kind].removesuffix("/metrics").rpartition(":")[2]
            text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
        for usual, port in (("8080", self.http), ("8081", self.grpc), ("8082", self.inside)):
            text = text.replace(f"listen {usual}", f"listen 127.0.0.1:{port}")
        text = text.replace("/tmp/", f"{folder}/").replace("/etc/nginx/tubelet", str(folder))
        (folder / "nginx.conf").write_text(text.replace("access_log /dev/stdout brief", "access_log off"))
        self.log = folder / "log"
        with self.log.open("w") as log:
            command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off; user root;"]
            self._process = subprocess.Popen(command, stderr=log)
        while self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.inside)).close()
                return
            except ConnectionRefusedError:
                continue
        raise AssertionError(self.log.read_text())

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
        """Status and body of an HTTP request; the path goes out as it stands here."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait() == 0


@pytest.fixture(scope="module")
def make_front(server: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Front]]:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    fronts: list[Front] = []

    def make(files: dict[str, str] | None = None, **options: Any) -> Front:
        folder = tmp_path_factory.mktemp("front")
        for name, text in (files or {}).items():
            (folder / name).write_text(text)
        fronts.append(Front(folder, options.pop("serving", server), **options))
        return fronts[-1]

    yield make
    for front in fronts:
        front.stop()


@pytest.fixture(scope="module")
def front(make_front: Callable[..., Front]) -> Front:
    return make_front()


def test_grpc_goes_through(front: Front, classifier: VideoClassifier) -> None:
    direct = classifier.classify(canary_video(), protocol="4x3")
    with VideoClassifier(f"127.0.0.1:{front.grpc}", model="motion") as through:
        np.testing.assert_array_equal(through.classify(canary_video(), protocol="4x3").logits, direct.logits)
        with pytest.raises(InvalidRequestError, match="bad_parameter"):
            through.classify(canary_video(), protocol="3x7")


def test_what_the_readme_types_goes_through(front: Front, server: Serving, tmp_path: Path) -> None:
    """curl says that a body is a form; of a form of some megabytes the Triton behind would die."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    video = tmp_path / "clip.mp4"
    video.write_bytes(canary_video() + bytes(8 << 20))
    url = f"http://127.0.0.1:{front.http}/v2/models/motion/infer"
    command = [
        "curl",
        "-s",
        "--noproxy",
        "*",
        "--data-binary",
        f"@{video}",
        "-H",
        "Inference-Header-Content-Length: 0",
        url,
    ]
    answer = subprocess.run(command, capture_output=True, check=True).stdout
    assert b'"model_name":"motion"' in answer
    assert [event["event"] for event in server.events] == ["ready"]


@pytest.mark.parametrize(
    "path",
    ["/v2", "/v2/health/live", "/v2/health/ready", *(f"/v2/models/motion{end}" for end in ("", "/config", "/stats"))],
)
def test_what_callers_may_read(front: Front, path: str) -> None:
    assert front.ask("GET", path)[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/motion/unload"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("GET", "/v2/cudasharedmemory/status"),
        ("POST", "/v2/systemsharedmemory/region/a/register"),
        ("GET", "/v2/trace/setting"),
        ("POST", "/v2/models/motion/trace/setting"),
        ("GET", "/v2/logging"),
        ("POST", "/v2/logging"),
        ("POST", "/v2/models/motion/generate"),
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/models/motion_sample"),
        ("GET", "/v2/models/motion_encoder/stats"),
        ("GET", "/v2/models/motion%5fencoder/stats"),
        ("GET", "/v2/models/motion%255fencoder/stats"),
        ("GET", "/v2/models/motion/../motion_encoder/stats"),
        ("GET", "/v2//models/motion_encoder/stats"),
        ("POST", "/v2/models/motion_sample/infer"),
        ("POST", "/v2/models/motion_sample/versions/1/infer"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("POST", "/v2/models/motion"),
        ("GET", "/v2/models/motion/infer"),
    ],
)
def test_what_callers_may_not(front: Front, method: str, path: str) -> None:
    status, body = front.ask(method, path, b"" if method == "POST" else None, RAW)
    assert status in (403, 404)
    assert json.loads(body)["error"].startswith("bad_parameter: ")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({**RAW, "Content-Encoding": "gzip"}, 415),
        ({**RAW, "Transfer-Encoding": "chunked"}, 415),
        ({}, 400),
        ({"Inference-Header-Content-Length": "10000"}, 400),
        ({"Inference-Header-Content-Length": "-1"}, 400),
    ],
    ids=str,
)
def test_what_would_end_the_triton_behind_stays_outside(front: Front, headers: dict[str, str], status: int) -> None:
    body = b"0\r\n\r\n" if "Transfer-Encoding" in headers else b"{}"
    got, text = front.ask("POST", "/v2/models/motion/infer", body, headers)
    assert got == status
    assert json.loads(text)["error"].startswith("bad_input: ")


def test_a_body_over_the_limit_is_refused_before_it_is_sent(front: Front) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", front.http, timeout=60)
    connection.putrequest("POST", "/v2/models/motion/infer")
    connection.putheader("Inference-Header-Content-Length", "0")
    connection.putheader("Content-Length", str(258 << 20))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"].startswith("too_large: ")
    connection.close()


def test_a_message_over_the_limit_is_refused(make_front: Callable[..., Front]) -> None:
    front = make_front(change=("client_max_body_size 257m", "client_max_body_size 1m"))
    with VideoClassifier(f"127.0.0.1:{front.grpc}", model="motion") as classifier:
        with pytest.raises(LimitError, match="too_large"):
            classifier.classify(canary_video() + bytes(2 << 20))
        assert classifier.classify(canary_video()).labels


def test_administration_over_grpc_is_refused(front: Front) -> None:
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{front.grpc}") as client:
        assert client.is_server_ready()
        assert client.get_inference_statistics("motion").model_stats[0].name == "motion"
        for forbidden in (
            client.get_model_repository_index,
            client.get_system_shared_memory_status,
            client.get_trace_settings,
            client.get_log_settings,
        ):
            with pytest.raises(tritonclient.utils.InferenceServerException, match="bad_parameter") as raised:
                forbidden()
            assert raised.value.status() == "StatusCode.UNIMPLEMENTED"
        with pytest.raises(tritonclient.utils.InferenceServerException, match="bad_input"):
            client.infer("motion", [video_input()], compression_algorithm="gzip")


def video_input() -> tritonclient.grpc.InferInput:
    tensor = tritonclient.grpc.InferInput("VIDEO", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([canary_video()], dtype=np.object_))
    return tensor


def test_a_request_that_was_given_up_does_not_spoil_the_next(front: Front, server: Serving) -> None:
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{front.grpc}") as client:
        for timeout_s in (0.0005, 0.001, 0.002, 0.004) * 5:
            with pytest.raises(tritonclient.utils.InferenceServerException, match=r"(?i)deadline"):
                client.infer("motion", [video_input()], client_timeout=timeout_s)
            assert client.infer("motion", [video_input()]).as_numpy("LOGITS").shape == (8,)
    assert [event["event"] for event in server.events] == ["ready"]


def test_inside_are_metrics_and_health_and_nothing_else(front: Front) -> None:
    inside = f"http://127.0.0.1:{front.inside}"
    with urlopen(f"{inside}/metrics") as answer:
        assert b"nv_inference_request_success" in answer.read()
    with urlopen(f"{inside}/ready") as answer:
        assert answer.status == 200
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{inside}/v2/models/motion")


def test_while_the_server_is_away_callers_hear_so(make_front: Callable[..., Front]) -> None:
    (nobody,) = free_ports(1)

    class Away:
        ready = dict.fromkeys(("http", "grpc", "metrics"), f"127.0.0.1:{nobody}")

    front = make_front(serving=Away())
    status, body = front.ask("GET", "/v2/health/ready")
    assert status == 503
    assert json.loads(body)["error"].startswith("backend_lost: ")
    with (
        tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{front.grpc}") as client,
        pytest.raises(tritonclient.utils.InferenceServerException) as raised,
    ):
        client.get_model_metadata("motion")
    assert raised.value.status() == "StatusCode.UNAVAILABLE"


def test_secrets_and_certificates_as_the_file_says(make_front: Callable[..., Front], tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    request = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*request.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    http_tls, grpc_tls = free_ports(2)
    known = 'map $http_authorization $is_known { default 0; "Bearer open-sesame" 1; }'
    make_front(
        {
            "global.conf": f"ssl_certificate {certificate};\nssl_certificate_key {key};\n{known}\n",
            "http.conf": f"listen 127.0.0.1:{http_tls} ssl;\nif ($is_known = 0) {{ return 401; }}\n",
            "grpc.conf": f"listen 127.0.0.1:{grpc_tls} ssl http2;\nif ($is_known = 0) {{ return 401; }}\n",
        }
    )
    trusting = ssl.create_default_context(cafile=str(certificate))
    url = f"https://localhost:{http_tls}/v2/models/motion"
    with urlopen(Request(url, headers={"Authorization": "Bearer open-sesame"}), context=trusting) as answer:
        assert json.loads(answer.read())["name"] == "motion"
    with pytest.raises(HTTPError, match="401"):
        urlopen(url, context=trusting)
    options = {"ssl": True, "root_certificates": str(certificate)}
    with tritonclient.grpc.InferenceServerClient(f"localhost:{grpc_tls}", **options) as client:
        answer = client.infer("motion", [video_input()], headers={"authorization": "Bearer open-sesame"})
        assert answer.as_numpy("LOGITS").shape == (8,)
        with pytest.raises(tritonclient.utils.InferenceServerException) as raised:
            client.infer("motion", [video_input()])
        assert raised.value.status() == "StatusCode.UNAUTHENTICATED"
