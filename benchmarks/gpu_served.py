"""30 views of an MP4 file through a real Triton whose network is on the card: from the caller's bytes to the answer.

The steps are the server's own, in Python, but for what `gpu_encoder` and `gpu_whole` put in their place.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gpu_section import Section, SkippedError
from timing import spread

__all__ = ["measure_served"]

NAME = "vivit_b_16x2_fe_k400"
ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("av", "cv2", "click", "rich", "tritonclient", "pytriton")
ROUNDS, WARM_UP = 12, 3
UNITS = 480
"""Of 30 views: 10 clips of 16 units in 3 crops, in one run of the encoder."""

Way = Literal["encoder", "whole"]
WAYS: dict[Way, str] = {
    "encoder": "encoder and temporal stage on the card, units cut by the processor",
    "whole": "units, encoder and temporal stage on the card, in one step",
}


def measure_served(section: Section) -> None:
    """Milliseconds of a request, by way and protocol, and the server's own account of them."""
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        raise SkippedError(f"not installed: {', '.join(missing)}")
    if subprocess.run([sys.executable, "-I", "-c", "import tubelet"], capture_output=True).returncode:
        raise SkippedError("tubelet must be installed (or named in a .pth file): Triton's Python reads no PYTHONPATH")
    from tubelet.server.triton import find_tritonserver
    from tubelet.spec.errors import MachineError

    try:
        find_tritonserver()
    except MachineError as exc:
        raise SkippedError(str(exc)) from exc
    with tempfile.TemporaryDirectory(prefix="tubelet_served_") as name:
        folder = Path(name)
        video = _video(folder)
        section.save(model=NAME, ways={})
        for way in ("whole", "encoder"):
            if section.seconds_left < (2 if section.tiny else 15):
                section.save(ways=section.found["ways"] | {way: {"skipped": "no time was left"}})
                continue
            section.say(WAYS[way])
            found = _measure(section, folder / way, way, video)
            section.save(ways=section.found["ways"] | {way: found})


def _video(folder: Path) -> bytes:
    """10 s of 320x240, H.264, 25 frames a second."""
    from videos import moving_video

    return moving_video(folder, seconds=10, width=320, height=240)


def _measure(section: Section, folder: Path, way: Way, video: bytes) -> dict[str, Any]:
    from tubelet.clients import VideoClassifier

    card = {"name": NAME, "tiny": section.tiny, "device": str(section.device), "precision": "bf16"}
    repository = _repository(folder, way, card)
    began = time.monotonic()
    found: dict[str, Any] = {"title": WAYS[way], "protocols": {}}
    with _serving(repository, folder / "events") as ready, VideoClassifier(ready["grpc"]) as classifier:
        found["seconds_to_ready"] = round(time.monotonic() - began, 1)
        for protocol in ("10x3", "1x1"):
            for _ in range(WARM_UP):
                classifier.classify(video, protocol=protocol)
            answers = [classifier.classify(video, protocol=protocol) for _ in range(3 if section.tiny else ROUNDS)]
            split = [answer.report.milliseconds for answer in answers]
            found["protocols"][protocol] = {
                "ms": spread([answer.round_trip_ms for answer in answers]),
                "split_ms": {step: round(statistics.median(one[step] for one in split), 2) for step in split[0]},
                "views": answers[0].report.views,
                "units_encoded": answers[0].report.units_encoded,
            }
        cosine = _cosine(answers[-1].view_logits, _expected(card, video, protocol))
    return found | {"cosine_with_this_process": cosine, "ok": cosine > 0.999}


def _cosine(one: Any, other: Any) -> float:
    return round(float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)), 6)


def _expected(card: dict[str, Any], video: bytes, protocol: str) -> Any:
    """VIEW_LOGITS of the same network in this process."""
    from gpu_encoder import CardNetwork

    from tubelet.preprocess.prepare import prepare_video
    from tubelet.spec.limits import Limits
    from tubelet.spec.request import Request

    network = CardNetwork(**card)
    request = Request.from_parameters({"protocol": protocol}, network.contract, Limits())
    ready = prepare_video(video, request, network.contract, Limits())
    feeds: dict[str, Any] = {"FRAMES": ready.frames, "UNIT_FRAMES": ready.unit_frames}
    return network.see(feeds | {"CROPS": ready.crops, "CLIP_UNITS": ready.clip_units})


def _repository(folder: Path, way: Way, card: dict[str, Any]) -> Path:
    """The repository of target ``cpu``, some of whose steps are on the card."""
    from gpu_bundle import placeholder_bundle

    from tubelet.export.repository import write_repository
    from tubelet.spec.engine import Running
    from tubelet.spec.limits import Limits

    placeholder_bundle(NAME, folder / "bundle", tiny=card["tiny"], largest_batch=UNITS)
    out = folder / "repository"
    running = Running(engine="onnxruntime", precision="fp32", mode="latency")
    write_repository([folder / "bundle"], target="cpu", out=out, limits=Limits(), running=running)
    if way == "encoder":
        for step in ("encoder", "temporal"):
            _put_on_card(
                out / f"{NAME}_{step}", f'from gpu_encoder import triton_model\n\nmodel = triton_model("{step}")', card
            )
    else:
        _merge_steps(out)
        _put_on_card(out / f"{NAME}_whole", "from gpu_whole import triton_model\n\nmodel = triton_model()", card)
    return out


def _put_on_card(step: Path, making: str, card: dict[str, Any]) -> None:
    (step / "1").mkdir(parents=True, exist_ok=True)
    # Triton's Python reads no PYTHONPATH.
    path = f"import sys\n\nsys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
    (step / "1" / "model.py").write_text(f"{path}{making}\nTritonPythonModel = model\n")
    (step / "1" / "card.json").write_text(json.dumps(card))


def _merge_steps(repository: Path) -> None:
    """Has one step ``whole`` in the place of units, encoder and temporal, in both ensembles."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    def read(name: str) -> Any:
        return text_format.Parse((repository / name / "config.pbtxt").read_text(), pb.ModelConfig())

    def write(config: Any) -> None:
        (repository / config.name).mkdir(exist_ok=True)
        (repository / config.name / "config.pbtxt").write_text(text_format.MessageToString(config))

    merged = [f"{NAME}_{step}" for step in ("units", "encoder", "temporal")]
    whole = read(merged[-1])
    whole.name = f"{NAME}_whole"
    units = read(merged[0])
    kept = [one for one in whole.input if one.name != "FEATURES"]
    known = [one.name for one in kept]
    kept += [one for one in units.input if one.name not in known]
    whole.ClearField("input")
    whole.input.extend(kept)
    whole.output.add(name="ENCODED_AT", data_type=pb.TYPE_FP64, dims=[-1, 2])
    write(whole)
    for name in (NAME, f"{NAME}_frames"):
        ensemble = read(name)
        steps = {step.model_name: step for step in ensemble.ensemble_scheduling.step}
        cut, encode, classify = (steps[step] for step in merged)
        inputs = {key: value for key, value in {**classify.input_map, **cut.input_map}.items() if key != "FEATURES"}
        outputs = {**classify.output_map, "ENCODED_AT": encode.output_map["ENCODED_AT"]}
        others = [step for step in steps.values() if step.model_name not in merged]
        one = pb.ModelEnsembling.Step(model_name=whole.name, model_version=-1, input_map=inputs, output_map=outputs)
        ensemble.ensemble_scheduling.ClearField("step")
        ensemble.ensemble_scheduling.step.extend([others[0], one, *others[1:]])
        write(ensemble)


@contextmanager
def _serving(repository: Path, events: Path) -> Iterator[dict[str, Any]]:
    """A server for as long as the block lasts; its supervisor sleeps, whose canary would be in the figures."""
    options: list[str | Path] = ["--json", "--allow-unverified", "--repository", repository]
    options += ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
    start = "from tubelet.cli import main; main()"
    command: list[str | Path] = [sys.executable, "-c", start, "serve", *options]
    with events.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            ready = _wait_until_ready(server, events)
            server.send_signal(signal.SIGSTOP)
            yield ready
        finally:
            server.send_signal(signal.SIGCONT)
            server.terminate()
            server.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], events: Path) -> dict[str, Any]:
    while server.poll() is None:
        for line in events.read_text().splitlines():
            if line.startswith('{"event": "ready"'):
                found: dict[str, Any] = json.loads(line)
                return found
        time.sleep(0.05)
    raise RuntimeError(f"the server has ended: {events.read_text()[-2000:]}")
