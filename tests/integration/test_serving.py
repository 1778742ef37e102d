"""A video in, labels out: through a real Triton."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import av
import numpy as np
import pytest
import tritonclient.grpc
from real_server import ROOT, TUBELET, Serving

from tubelet.averaging import average_views
from tubelet.clients import VideoClassifier
from tubelet.demo.evaluate import evaluate_in_torch
from tubelet.engines.base import EngineSettings
from tubelet.engines.open import open_engine
from tubelet.preprocess.canary import canary_video
from tubelet.preprocess.geometry import cut_units
from tubelet.preprocess.prepare import prepare_video
from tubelet.spec.errors import (
    ContractError,
    DeadlineError,
    InvalidRequestError,
    InvalidVideoError,
    LimitError,
    OverloadedError,
)
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Manifest
from tubelet.spec.request import Request

pytestmark = pytest.mark.needs_triton

MANY = "too_many_views"


@pytest.fixture(scope="module")
def video(clips: Path) -> bytes:
    with (clips / "labels.csv").open() as file:
        return (clips / next(csv.DictReader(file))["video"]).read_bytes()


def ask_raw(grpc: str, video: bytes, **options: Any) -> tritonclient.grpc.InferResult:
    """A request of any KServe v2 client, with nothing of tubelet in it."""
    tensor = tritonclient.grpc.InferInput("VIDEO", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([video], dtype=np.object_))
    with tritonclient.grpc.InferenceServerClient(grpc) as client:
        return client.infer("motion", [tensor], **options)


def test_labels_of_generated_clips(classifier: VideoClassifier, clips: Path) -> None:
    with (clips / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = [classifier.classify(clips / row["video"]).labels[0].name for row in rows]
    hits = sum(label == row["label"] for label, row in zip(found, rows, strict=True))
    assert hits >= len(rows) - 1, list(zip(found, rows, strict=True))


@pytest.mark.parametrize("protocol", ["1x1", "4x3", "10x3", "tsn"])
def test_same_bits_as_the_engine_called_directly(
    classifier: VideoClassifier, motion_bundle: Path, video: bytes, protocol: str
) -> None:
    contract = Manifest.load(motion_bundle).contract
    limits = Limits()
    request = Request.from_parameters({"protocol": protocol}, contract, limits)
    prepared = prepare_video(video, request, contract, limits)
    units = cut_units(prepared.frames, prepared.unit_frames, prepared.crops, size_px=contract.crop.size_px)
    settings = EngineSettings.of_mode("openvino", "fp32", "latency")
    encoder = open_engine(motion_bundle / "encoder.onnx", settings)
    chunks = [encoder.run({"UNITS": units[i : i + 32]})["FEATURES"] for i in range(0, len(units), 32)]
    feeds = {"FEATURES": np.concatenate(chunks), "CLIP_UNITS": prepared.clip_units, "CROPS": prepared.crops}
    temporal = open_engine(motion_bundle / "temporal.onnx", EngineSettings.small("openvino"))
    views = temporal.run(feeds)["VIEW_LOGITS"]
    logits = average_views(views, contract.aggregation, contract.heads)

    found = classifier.classify(video, protocol=protocol)

    np.testing.assert_array_equal(found.view_logits, views)
    np.testing.assert_array_equal(found.logits, logits)
    assert found.frame_times is not None
    np.testing.assert_array_equal(found.frame_times, prepared.frame_times)
    assert found.report.views == request.protocol.num_views
    assert found.report.units_encoded == len(units) <= found.report.units_wanted


def test_frames_give_the_same_answer_as_their_video(classifier: VideoClassifier, video: bytes) -> None:
    with av.open(io.BytesIO(video), "r") as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        frames = np.stack(decoded).astype(np.uint8)
        fps = float(container.streams.video[0].average_rate or 0)
    of_video = classifier.classify(video)
    of_frames = classifier.classify(frames, fps=fps)
    np.testing.assert_array_equal(of_frames.logits, of_video.logits)


def test_contract_comes_from_the_server(classifier: VideoClassifier, server: Serving, motion_bundle: Path) -> None:
    contract = Manifest.load(motion_bundle).contract
    assert classifier.describe().contract == contract
    with server.classifier(expect_digest=contract.digest) as other:
        assert other.describe().contract.digest == contract.digest
    with server.classifier(expect_digest="sha256:of another") as other, pytest.raises(ContractError):
        other.describe()


def test_any_kserve_client_gets_labels(server: Serving, video: bytes) -> None:
    wanted = tritonclient.grpc.InferRequestedOutput("PROBABILITIES", class_count=2)
    answer = ask_raw(server.ready["grpc"], video, outputs=[wanted]).as_numpy("PROBABILITIES")
    assert len(answer) == 2
    labels = (ROOT / "export" / "labels" / "motion.txt").read_text().split()
    for line in answer:
        probability, index, label = line.decode().split(":")
        assert 0 <= float(probability) <= 1
        assert labels[int(index)] == label


@pytest.mark.parametrize("name", ["LOGITS", "PROBABILITIES", "VIEW_LOGITS", "FRAME_TIMES", "REPORT"])
def test_each_output_can_be_asked_for_alone(server: Serving, video: bytes, name: str) -> None:
    answer = ask_raw(server.ready["grpc"], video, outputs=[tritonclient.grpc.InferRequestedOutput(name)])
    assert [output.name for output in answer.get_response().outputs] == [name]
    assert answer.as_numpy(name).size > 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
def test_plain_curl_gets_an_answer(server: Serving, video: bytes, tmp_path: Path) -> None:
    """The README's command, to the letter but for the port."""
    (tmp_path / "clip.mp4").write_bytes(video)
    command = (
        "curl -s --data-binary @clip.mp4 -H 'Content-Type: application/octet-stream' "
        "-H 'Inference-Header-Content-Length: 0' "
        f"{server.ready['http']}/v2/models/motion/infer | grep -ao '{{\"protocol.*}}}}'"
    )
    readme = (ROOT / "README.md").read_text().replace("\\\n", "")
    assert " ".join(command.replace(server.ready["http"], "localhost:8000").split()) in " ".join(readme.split())
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["protocol"] == "1x1"
    assert sum(report["top"].values()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"protocol": "2x2"}, "no protocol '2x2'; it has 1x1, 4x3, 10x3, tsn"),
        ({"protocol": "full"}, "1x1"),
        ({"start_s": -1.0}, "start_s"),
        ({"start_s": 1.0, "end_s": 0.5}, "end_s"),
        ({"start_s": 3600.0}, "bad_parameter"),
    ],
)
def test_bad_parameters_are_named(classifier: VideoClassifier, video: bytes, options: Any, expected: str) -> None:
    with pytest.raises(InvalidRequestError, match=expected) as caught:
        classifier.classify(video, **options)
    assert caught.value.code == "bad_parameter"


def test_unknown_parameter_over_http(server: Serving, video: bytes) -> None:
    head = json.dumps(
        {
            "parameters": {"protocl": "4x3"},
            "inputs": [
                {"name": "VIDEO", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(video) + 4}}
            ],
        }
    ).encode()
    body = head + len(video).to_bytes(4, "little") + video
    headers = {"Inference-Header-Content-Length": str(len(head))}
    with pytest.raises(HTTPError) as caught:
        urlopen(HttpRequest(f"{server.ready['http']}/v2/models/motion/infer", body, headers))
    text = json.loads(caught.value.read())["error"]
    caught.value.close()
    assert caught.value.code == 400
    assert "bad_parameter: unknown parameter 'protocl'; there are protocol, start_s, end_s, deadline_ms" in text


def test_unknown_model_names_those_that_exist(server: Serving) -> None:
    with (
        server.classifier(model="vivit_huge") as classifier,
        pytest.raises(InvalidRequestError, match="the server has motion"),
    ):
        classifier.describe()


def test_one_wrong_video_among_eight_fails_alone(classifier: VideoClassifier, video: bytes) -> None:
    videos = [video] * 8
    videos[3] = b"GIF89a is not what follows" * 40
    together = threading.Barrier(8)

    def classify(data: bytes) -> Any:
        together.wait()
        try:
            return classifier.classify(data).logits
        except InvalidVideoError as exc:
            return exc

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(classify, videos))
    alone = classifier.classify(video).logits
    assert isinstance(answers[3], InvalidVideoError)
    for i in (0, 1, 2, 4, 5, 6, 7):
        np.testing.assert_allclose(answers[i], alone, atol=2e-5)  # rows may share a batch with others' rows


def test_a_deadline_that_has_passed_is_said_so(classifier: VideoClassifier, video: bytes) -> None:
    with pytest.raises(DeadlineError):
        classifier.classify(video, protocol="10x3", deadline_s=0.001)
    assert classifier.classify(video).labels


def test_the_server_itself_ends_work_at_the_deadline(server: Serving, video: bytes) -> None:
    """The client of this test waits for ever; only the server's steps look at the clock."""
    with pytest.raises(tritonclient.utils.InferenceServerException, match="deadline_exceeded: ") as caught:
        ask_raw(server.ready["grpc"], video, parameters={"protocol": "10x3", "deadline_ms": "0.5"})
    assert caught.value.status() == "StatusCode.UNAVAILABLE"


def test_units_of_concurrent_requests_share_batches(classifier: VideoClassifier, server: Serving, video: bytes) -> None:
    def encoder_statistics() -> tuple[int, int]:
        with urlopen(f"{server.ready['http']}/v2/models/motion_encoder/stats") as answer:
            stats = json.load(answer)["model_stats"][0]
        return stats["inference_count"], stats["execution_count"]

    before = encoder_statistics()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: classifier.classify(video, protocol="4x3"), range(64)))
    units, executions = (new - old for new, old in zip(encoder_statistics(), before, strict=True))
    assert units >= sum(answer.report.units_encoded for answer in answers)  # and the canary's
    assert executions < len(answers)


def test_metrics_of_our_own(classifier: VideoClassifier, server: Serving, video: bytes) -> None:
    with pytest.raises(InvalidVideoError):
        classifier.classify(b"")
    classifier.classify(video)
    with urlopen(server.ready["metrics"]) as answer:
        text = answer.read().decode()
    assert 'tubelet_errors_total{code="empty_video",model="motion",step="sample"}' in text
    for name in ("decode_seconds", "frames_decoded", "units_encoded", "videos"):
        lines = [line for line in text.splitlines() if line.startswith(f'tubelet_{name}_total{{model="motion"}}')]
        assert float(lines[0].split()[-1]) > 0


@pytest.mark.parametrize(
    ("step", "tensors", "code"),
    [
        ("units", {"FRAMES": (2, 60, 60, 3), "UNIT_FRAMES": (5000, 4), "CROPS": (1, 2), "DEADLINE": (1,)}, MANY),
        ("units", {"FRAMES": (2, 20, 60, 3), "UNIT_FRAMES": (1, 4), "CROPS": (1, 2), "DEADLINE": (1,)}, "bad_input"),
        ("temporal", {"FEATURES": (12, 96), "CLIP_UNITS": (20_000, 4), "CROPS": (3, 2), "DEADLINE": (1,)}, MANY),
        ("temporal", {"FEATURES": (0, 96), "CLIP_UNITS": (1, 4), "CROPS": (3, 2), "DEADLINE": (1,)}, "bad_input"),
    ],
)
def test_inner_steps_hold_the_limits_too(
    server: Serving, step: str, tensors: dict[str, tuple[int, ...]], code: str
) -> None:
    types = {"FRAMES": ("UINT8", np.uint8), "FEATURES": ("FP32", np.float32), "DEADLINE": ("FP64", np.float64)}
    inputs = []
    for name, shape in tensors.items():
        datatype, dtype = types.get(name, ("INT32", np.int32))
        inputs.append(tritonclient.grpc.InferInput(name, list(shape), datatype))
        inputs[-1].set_data_from_numpy(np.zeros(shape, dtype))
    with (
        tritonclient.grpc.InferenceServerClient(server.ready["grpc"]) as client,
        pytest.raises(tritonclient.utils.InferenceServerException, match=f"^.StatusCode.INVALID_ARGUMENT. {code}: "),
    ):
        client.infer(f"motion_{step}", inputs)


def test_administration_needs_the_key(server: Serving) -> None:
    for path in ("v2/repository/models/motion/unload", "v2/repository/index", "v2/logging"):
        with pytest.raises(HTTPError) as caught:
            urlopen(HttpRequest(f"{server.ready['http']}/{path}", b"{}", method="POST"))
        caught.value.close()
        assert caught.value.code == 403


@pytest.fixture(scope="module")
def narrow_server(make_repository: Callable[..., Path]) -> Iterator[Serving]:
    """A model that accepts little more than the canary."""
    limits = {
        "max_video_bytes": 60_000,
        "max_frame_pixels": 100 * 100,
        "max_duration_s": 3.0,
        "max_decoded_frames": 100,
        "max_views": 12,
        "max_units": 40,
    }
    with Serving(make_repository(**limits)) as serving:
        yield serving


@pytest.fixture(scope="module")
def narrow(narrow_server: Serving) -> Iterator[VideoClassifier]:
    with narrow_server.classifier() as classifier:
        yield classifier


@pytest.mark.parametrize(
    ("video_options", "protocol", "code", "limit"),
    [
        ({"size": (128, 96)}, "1x1", "too_many_pixels", "max_frame_pixels"),
        ({"num_frames": 3, "pts_ms": (0, 40, 4000)}, "1x1", "too_long", "max_duration_s"),
        ({"num_frames": 110, "fps": 60}, "1x1", "too_long", "max_decoded_frames"),
        ({}, "10x3", "too_many_views", "max_views"),
        ({"num_frames": 90, "fps": 60}, "4x3", "too_many_views", "max_units"),
    ],
)
def test_each_limit_names_itself(
    narrow: VideoClassifier, make_video: Callable[..., bytes], video_options: Any, protocol: str, code: str, limit: str
) -> None:
    with pytest.raises(LimitError, match=limit) as caught:
        narrow.classify(make_video(**{"size": (64, 64), **video_options}), protocol=protocol)
    assert caught.value.code == code
    assert narrow.classify(canary_video()).labels


def test_too_many_bytes_are_refused_by_client_and_server(narrow: VideoClassifier, narrow_server: Serving) -> None:
    too_large = canary_video() + bytes(60_000)
    with pytest.raises(LimitError, match="it was not sent"):
        narrow.classify(too_large)
    with pytest.raises(tritonclient.utils.InferenceServerException, match=r"too_large: .*max_video_bytes is 60000"):
        ask_raw(narrow_server.ready["grpc"], too_large)


def test_a_full_queue_refuses_at_once(
    make_repository: Callable[..., Path], serve: Callable[..., Serving], video: bytes
) -> None:
    serving = serve(make_repository(queue_size=2))
    with serving.classifier() as classifier, ThreadPoolExecutor(32) as pool:

        def classify(_: int) -> Any:
            try:
                return classifier.classify(video)
            except OverloadedError as exc:
                return exc

        answers = list(pool.map(classify, range(64)))
        refused = [answer for answer in answers if isinstance(answer, OverloadedError)]
        assert refused
        assert len(refused) < len(answers)
        assert classifier.classify(canary_video()).labels


def test_evaluate_through_the_server_equals_torch(server: Serving, clips: Path) -> None:
    done = subprocess.run(
        [TUBELET, "evaluate", clips / "labels.csv", "--url", server.ready["grpc"], "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    *rows, summary = (json.loads(line) for line in done.stdout.splitlines())
    in_torch = evaluate_in_torch(clips / "labels.csv", recipe=ROOT / "export" / "recipes" / "motion.toml")
    assert [row["heads"]["motion"]["found"] for row in rows] == list(in_torch.found)
    assert summary["heads"]["motion"]["top1"]["value"] == in_torch.top1
    assert summary["rows"] == len(in_torch.wanted)


def test_the_readme_is_true(server: Serving, video: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the Python of the README as it stands, but for the port."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    # The one for stored features needs another model: test_chunks.py runs it.
    blocks = [block for block in blocks if "motion_vtn" not in block]
    assert len(blocks) == 2
    (tmp_path / "clip.mp4").write_bytes(video)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        program = block.replace("localhost:8001", server.ready["grpc"])
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip()
