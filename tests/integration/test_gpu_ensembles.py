"""The ensembles of target ``gpu``, through a real Triton: only the native backends have stand-ins on the processor.

The repository is the one that `write_repository` gives for a card. What is changed so that the wheel's Triton 2.51 can
load it stands in `on_processors`; that no card has run it remains (docs/adr/0020-gpu-repository.md).
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from real_server import Serving
from tritonclient.grpc import model_config_pb2 as pb

from tubelet.clients import Classification
from tubelet.export.repository import write_repository
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.engine import DEFAULT_RUNNING, Running
from tubelet.spec.errors import DeadlineError, InvalidRequestError, InvalidVideoError, LimitError
from tubelet.spec.limits import Limits
from tubelet.spec.repository import RepositoryIndex

pytestmark = pytest.mark.needs_triton

ON_CARD = Running(engine="onnxruntime_cuda", precision="fp32", mode="latency")
MODELS = ("motion", "motion_vtn", "motion_vidtr")
TOGETHER = {"motion_together": ["motion_vidtr", "motion_vtn"]}
ASKED = [(model, protocol) for model in MODELS for protocol in ("1x1", "4x3")] + [
    ("motion_vtn", "full"),
    ("motion_vtn", "full300"),
    ("motion_together", "4x3"),
]


def on_processors(repository: Path) -> None:
    """Lets the wheel's Triton load a repository that was written for a card."""
    stand_in = Path(__file__).parent / "graph_step.py"
    for path in repository.glob("*/config.pbtxt"):
        config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
        if config.platform == "ensemble":
            config.ensemble_scheduling.ClearField("max_inflight_requests")  # newer than 2.51
        if config.backend == "onnxruntime":
            config.backend = "python"
            config.ClearField("optimization")
            config.ClearField("default_model_filename")
            for group in config.instance_group:
                group.kind = pb.ModelInstanceGroup.KIND_CPU
                group.ClearField("gpus")
            shutil.copy(stand_in, path.parent / "1" / "model.py")
        path.write_text(text_format.MessageToString(config), encoding="utf-8")
    index = RepositoryIndex.load(repository)
    models = tuple(
        replace(model, running=DEFAULT_RUNNING, verified=True, device_pool_bytes=0, pinned_pool_bytes=0)
        for model in index.models
    )
    replace(index, target="cpu", models=models).save(repository)


@dataclass(frozen=True)
class Targets:
    gpu: Serving
    cpu: Serving

    def classify(self, model: str, video: bytes, **wishes: object) -> tuple[Classification, Classification]:
        found = []
        for serving in (self.gpu, self.cpu):
            with serving.classifier(model=model) as classifier:
                found.append(classifier.classify(video, **wishes))  # type: ignore[arg-type]
        return found[0], found[1]


@pytest.fixture(scope="module")
def targets(demo_bundle: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Targets]:
    bundles = [demo_bundle(name) for name in MODELS]
    gpu, cpu = (tmp_path_factory.mktemp(name) for name in ("gpu", "cpu"))
    write_repository(bundles, target="gpu", out=gpu, limits=Limits(), running=ON_CARD, ensembles=TOGETHER)
    write_repository(bundles, target="cpu", out=cpu, limits=Limits(), ensembles=TOGETHER)
    on_processors(gpu)
    with Serving(gpu) as one, Serving(cpu) as other:
        yield Targets(one, other)


@pytest.fixture(scope="module")
def videos(clips: Path) -> list[bytes]:
    with (clips / "labels.csv").open(newline="") as file:
        return [(clips / row["video"]).read_bytes() for row in csv.DictReader(file)]


def assert_alike(found: Classification, expected: Classification) -> None:
    atol = BUDGETS["engine-fp32/torch-fp32"].max_abs_logit
    assert atol is not None
    for name in ("logits", "view_logits", "attention", "features"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=0, atol=atol, err_msg=name)
    for name in ("positions", "frame_times", "clip_spans"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert [label.index for label in found.labels] == [label.index for label in expected.labels]
    for name in ("protocol", "warnings", "frames_decoded", "views", "units_wanted", "units_encoded"):
        assert getattr(found.report, name) == getattr(expected.report, name), name


@pytest.mark.parametrize(("model", "protocol"), ASKED)
def test_callers_cannot_tell_the_targets_apart(
    targets: Targets, videos: list[bytes], model: str, protocol: str
) -> None:
    assert_alike(*targets.classify(model, videos[0], protocol=protocol))


@pytest.mark.parametrize("chunked", [False, True])
def test_long_videos_and_features_take_their_own_ways(targets: Targets, videos: list[bytes], chunked: bool) -> None:
    wishes = {"protocol": "full200", "chunked": chunked, "with_features": True}
    found, expected = targets.classify("motion_vtn", videos[1], **wishes)
    assert_alike(found, expected)
    assert found.features is not None
    with targets.gpu.classifier(model="motion_vtn") as classifier:
        again = classifier.classify_features(found.features, found.positions)
    np.testing.assert_allclose(again.logits, found.logits, rtol=0, atol=1e-5)


def test_requests_that_share_batches_keep_their_answers(targets: Targets, videos: list[bytes]) -> None:
    expected = [targets.classify("motion", video, protocol="4x3")[1] for video in videos[:4]]
    with targets.gpu.classifier(model="motion") as classifier, ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda i: classifier.classify(videos[i % 4], protocol="4x3"), range(48)))
    for i, answer in enumerate(found):
        assert_alike(answer, expected[i % 4])


def test_a_request_that_fails_does_so_alone_and_by_name(targets: Targets, videos: list[bytes]) -> None:
    with targets.gpu.classifier(model="motion") as classifier:
        with pytest.raises(InvalidVideoError, match="not_a_video"):
            classifier.classify(b"this is no video")
        with pytest.raises(InvalidRequestError, match="bad_parameter"):
            classifier.classify(videos[0], protocol="full")
        with pytest.raises(LimitError, match="too_many_views"):
            classifier.classify(videos[0], protocol="64x3")
        with pytest.raises(DeadlineError):
            classifier.classify(videos[0], deadline_s=0.000001)
        assert classifier.classify(videos[0]).report.views == 1


def test_the_report_says_how_long_the_card_took(targets: Targets, videos: list[bytes]) -> None:
    found, expected = targets.classify("motion", videos[0], protocol="4x3")
    assert set(found.report.milliseconds) - set(expected.report.milliseconds) == {"gpu"}
    times = found.report.milliseconds
    assert 0 < times["gpu"] < times["total"]
    assert json.loads(json.dumps(found.to_json()))["report"]["milliseconds"]["gpu"] == times["gpu"]
