"""Engines and modes through a real Triton: the bits of the engine called directly; what is not verified is refused."""

import csv
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from real_server import TUBELET, Serving

from tubelet.engines.openvino import has_bf16
from tubelet.export.chain import Chain
from tubelet.export.repository import write_repository
from tubelet.export.samples import Sample
from tubelet.preprocess.prepare import prepare_video
from tubelet.spec.engine import Running
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Manifest
from tubelet.spec.request import Request

pytestmark = pytest.mark.needs_triton

PORTS = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
BF16 = Running(engine="openvino", precision="bf16", mode="latency")
RUNNING = [
    Running(engine="openvino", precision="fp32", mode="throughput"),
    Running(engine="onnxruntime", precision="fp32", mode="latency"),
    pytest.param(BF16, marks=pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16")),
]


@pytest.fixture(scope="module")
def video(clips: Path) -> bytes:
    with (clips / "labels.csv").open() as file:
        return (clips / next(csv.DictReader(file))["video"]).read_bytes()


@pytest.mark.parametrize("running", RUNNING, ids=lambda r: f"{r.engine}-{r.precision}-{r.mode}")
def test_served_logits_are_those_of_the_engine(
    serve: Callable[..., Serving], motion_bundle: Path, tmp_path: Path, video: bytes, running: Running
) -> None:
    write_repository([motion_bundle], target="cpu", out=tmp_path / "r", limits=Limits(), running=running)
    contract = Manifest.load(motion_bundle).contract
    request = Request.from_parameters({"protocol": "4x3"}, contract, Limits())
    prepared = prepare_video(video, request, contract, Limits())
    names = ("frames", "unit_frames", "clip_units", "crops", "clip_positions")
    sample = Sample(name="", **{name: getattr(prepared, name) for name in names})
    chain = Chain.open(motion_bundle, contract, running.engine, running.precision)
    expected = chain.answer(sample, chain.units(sample), batch=32)["VIEW_LOGITS"]
    # bf16 was not verified for this bundle: it takes real clips.
    with serve(tmp_path / "r", "--allow-unverified").classifier() as classifier:
        found = classifier.classify(video, protocol="4x3").view_logits
    np.testing.assert_array_equal(found, expected)


def test_an_unverified_bundle_is_refused_by_the_command(
    serve: Callable[..., Serving], motion_bundle: Path, tmp_path: Path, video: bytes
) -> None:
    bundle, repository = tmp_path / "motion", tmp_path / "repository"
    shutil.copytree(motion_bundle, bundle)
    manifest = Manifest.load(bundle)
    replace(manifest, build=replace(manifest.build, verified=())).save(bundle)
    written = subprocess.run(
        [TUBELET, "repository", bundle, "--target", "cpu", "--out", repository], capture_output=True, text=True
    )
    assert written.returncode == 0
    assert "motion: openvino fp32 is not verified; tubelet serve will refuse it" in written.stderr
    refused = subprocess.run([TUBELET, "serve", "--repository", repository, *PORTS], capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: unverified: motion was not verified")
    assert refused.stdout == ""
    with serve(repository, "--allow-unverified").classifier() as classifier:
        assert classifier.classify(video).labels
