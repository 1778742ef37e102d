"""Every family served side by side by one real tritonserver, by its own preprocessing, and two that answer together."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from real_server import Serving

from tubelet.averaging import average_views, probabilities, view_rows
from tubelet.clients.results import Classification
from tubelet.engines.base import EngineSettings
from tubelet.engines.open import open_engine
from tubelet.export.repository import write_repository
from tubelet.preprocess.geometry import cut_units
from tubelet.preprocess.prepare import prepare_video
from tubelet.spec.errors import InvalidRequestError, InvalidVideoError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Manifest
from tubelet.spec.request import Request

MODELS = ("motion", "motion_vtn", "motion_vidtr", "motion_cvidtr")
TOGETHER = "motion_together"
MIN_RIGHT = 13
"""Of 16 clips; the models' own figures are better, and stand in the README."""

pytestmark = pytest.mark.needs_triton


@dataclass(frozen=True)
class Families:
    bundles: dict[str, Path]
    serving: Serving

    def classify(self, model: str, video: bytes, protocol: str | None = None) -> Classification:
        with self.serving.classifier(model=model) as classifier:
            return classifier.classify(video, protocol=protocol)


@pytest.fixture(scope="module")
def families(demo_bundle: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Families]:
    bundles = {name: demo_bundle(name) for name in MODELS}
    repository = tmp_path_factory.mktemp("families") / "repository"
    members = {TOGETHER: ["motion_vidtr", "motion_vtn"]}
    write_repository(list(bundles.values()), target="cpu", out=repository, limits=Limits(), ensembles=members)
    with Serving(repository) as serving:
        yield Families(bundles, serving)


def labelled(clips: Path) -> list[tuple[bytes, str]]:
    with (clips / "labels.csv").open(newline="") as file:
        return [((clips / row["video"]).read_bytes(), row["label"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("model", [*MODELS, TOGETHER])
def test_every_family_knows_motion(families: Families, clips: Path, model: str) -> None:
    with families.serving.classifier(model=model) as classifier:
        right = sum(classifier.classify(video).labels[0].name == label for video, label in labelled(clips))
    assert right >= MIN_RIGHT


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("protocol", ["1x1", "4x3", "tsn", "full"])
def test_served_views_are_those_of_the_graphs(families: Families, clips: Path, model: str, protocol: str) -> None:
    bundle = families.bundles[model]
    manifest = Manifest.load(bundle)
    contract = manifest.contract
    if protocol not in contract.protocols:
        pytest.skip(f"{model} has no protocol {protocol}")
    video = labelled(clips)[0][0]
    found = families.classify(model, video, protocol)

    prepared = prepare_video(
        video, Request.from_parameters({"protocol": protocol}, contract, Limits()), contract, Limits()
    )
    units = cut_units(prepared.frames, prepared.unit_frames, prepared.crops, size_px=contract.crop.size_px)
    settings, batch = EngineSettings.of_mode("openvino", "fp32", "latency"), manifest.build.largest_batch
    encoder = open_engine(bundle / "encoder.onnx", settings)
    runs = [encoder.run({"UNITS": units[i : i + batch]}) for i in range(0, len(units), batch)]
    encoded = np.concatenate([next(iter(run.values())) for run in runs])
    if contract.is_joint:
        views = encoded[view_rows(prepared.clip_units, len(prepared.crops))[:, 0]]
        assert found.attention is None
    else:
        feeds = {"FEATURES": encoded, "CLIP_UNITS": prepared.clip_units, "CROPS": prepared.crops}
        if contract.geometry.positions:
            feeds["CLIP_POSITIONS"] = prepared.clip_positions
        answer = open_engine(bundle / "temporal.onnx", EngineSettings.small("openvino")).run(feeds)
        views = answer["VIEW_LOGITS"]
        if contract.geometry.attention:
            assert found.attention is not None
            assert found.frame_times is not None
            np.testing.assert_array_equal(found.attention, answer["ATTENTION"])
            assert found.attention.shape[1] == found.frame_times.shape[1]
    np.testing.assert_array_equal(found.view_logits, views)
    np.testing.assert_array_equal(found.logits, average_views(views, contract.aggregation, contract.heads))
    assert found.report.units_encoded == len(units)


def test_models_that_answer_together_average_their_probabilities(families: Families, clips: Path) -> None:
    video = labelled(clips)[1][0]
    together = families.classify(TOGETHER, video)
    members = [families.classify(name, video) for name in ("motion_vidtr", "motion_vtn")]
    shares = [probabilities(member.logits.astype(np.float64), _heads(families, member.model)) for member in members]
    found = probabilities(together.logits.astype(np.float64), _heads(families, "motion"))
    np.testing.assert_allclose(found, np.mean(shares, axis=0), rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(together.view_logits, np.concatenate([m.view_logits for m in members]))
    assert together.report.views == sum(member.report.views for member in members)
    assert together.frame_times is None


def test_models_that_answer_together_do_so_without_views(families: Families, clips: Path) -> None:
    video = labelled(clips)[1][0]
    with families.serving.classifier(model=TOGETHER) as classifier:
        brief = classifier.classify(video, with_views=False)
    assert brief.labels == families.classify(TOGETHER, video).labels
    assert (len(brief.view_logits), brief.report.views) == (0, 2)


def test_a_protocol_must_be_known_to_all_members(families: Families, clips: Path) -> None:
    video = labelled(clips)[0][0]
    with pytest.raises(InvalidRequestError, match="motion_vidtr has no protocol") as caught:
        families.classify(TOGETHER, video, "full")
    assert caught.value.code == "bad_parameter"
    assert families.classify(TOGETHER, video, "4x3").report.views == 24


def test_a_video_that_no_member_can_read_fails_alone(families: Families, clips: Path) -> None:
    """Members that began side by side and failed together would end Triton 2.51, or leave its gRPC side standing."""
    for _ in range(5):
        with pytest.raises(InvalidVideoError) as caught:
            families.classify(TOGETHER, b"this is no video")
        assert caught.value.code == "not_a_video"
    assert families.classify(TOGETHER, labelled(clips)[0][0]).report.views == 2


def _heads(families: Families, model: str):
    return Manifest.load(families.bundles[model]).contract.heads
