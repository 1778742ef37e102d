"""The bundle's graphs by ONNX Runtime's CUDA provider, and by TensorRT, where these are installed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_bundle import exported_bundle
from gpu_machine import measure_ceilings
from gpu_networks import CASES, Views, work_of
from gpu_pipeline import random_units, time_calls
from gpu_section import Section, SkippedError

from tubelet.spec.engine import Precision, graph_file
from tubelet.spec.manifest import Contract, Manifest

__all__ = ["measure_onnxruntime", "measure_tensorrt"]

CASE = CASES[0]
LEAST_SECONDS, LEAST_BUILD_S = 10.0, 60.0
HOST = torch.device("cpu")
"""Both runtimes are called until they are done, and timed by the clock."""

Measure = Callable[[Path, Contract, Views], dict[str, Any]]


def measure_onnxruntime(section: Section) -> None:
    """The encoder, units and answers bound to the card's memory: nothing is copied."""
    if find_spec("onnxruntime") is None:
        raise SkippedError("onnxruntime is not installed")
    import onnxruntime as ort

    provider = "CUDAExecutionProvider" if section.device.type == "cuda" else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise SkippedError(f"this onnxruntime has no {provider}: onnxruntime-gpu is needed")

    def measure(graph: Path, contract: Contract, views: Views) -> dict[str, Any]:
        session = ort.InferenceSession(graph, providers=[provider])
        if session.get_providers()[0] != provider:  # it falls back in silence
            return {"failed": f"{provider} could not be started"}
        units = random_units(contract, _num_units(contract, views), section.device)
        call = _bound(session, units, section.device)
        return _timed(section, call, views)

    # On a processor this is a check of the benchmark, and there is no bf16.
    _measure_graphs(section, ("bf16", "fp16") if section.device.type == "cuda" else ("fp16",), measure)


def measure_tensorrt(section: Section) -> None:
    """Plans of the encoder, built here for the shapes that are measured; building is timed apart."""
    if find_spec("tensorrt") is None:
        raise SkippedError("tensorrt is not installed")
    if section.device.type != "cuda":
        raise SkippedError("TensorRT needs a CUDA GPU")
    from gpu_plans import build_and_load

    def measure(graph: Path, contract: Contract, views: Views) -> dict[str, Any]:
        if section.seconds_left < LEAST_BUILD_S:
            return {"skipped": "no time was left to build a plan"}
        units = random_units(contract, _num_units(contract, views), section.device)
        call, built = build_and_load(graph, units, say=section.say)
        return built | _timed(section, call, views)

    _measure_graphs(section, ("bf16", "fp16"), measure)


def _measure_graphs(section: Section, precisions: tuple[Precision, ...], measure: Measure) -> None:
    if missing := [package for package in ("onnx", "onnxscript") if find_spec(package) is None]:
        raise SkippedError(f"a bundle is exported first, and not installed are: {', '.join(missing)}")
    with _bundle(section) as bundle:
        contract = Manifest.load(bundle).contract
        runs: list[dict[str, Any]] = []
        peaks = measure_ceilings(section.device, tiny=section.tiny)["tflops"]
        for views in CASE.views:
            for precision in precisions:
                section.say(f"{contract.name}, {views.title}, {precision}")
                run: dict[str, Any] = {"views": views.title, "precision": precision}
                if section.seconds_left < (LEAST_SECONDS if not section.tiny else 0.5):
                    run["skipped"] = "no time was left"
                else:
                    run |= _attempt(measure, bundle / graph_file("encoder", precision, "gpu"), contract, views)
                if "tflops" in run:
                    run["of_peak"] = round(run["tflops"] / peaks[precision], 4)
                runs.append(run)
                section.save(title=f"{CASE.title}, the encoder alone", peaks=peaks, runs=runs)


def _attempt(measure: Measure, graph: Path, contract: Contract, views: Views) -> dict[str, Any]:
    if not graph.is_file():
        return {"skipped": f"the bundle has no {graph.name}"}
    try:
        return measure(graph, contract, views)
    except Exception as exc:  # noqa: BLE001  runtimes raise what they like
        return {"failed": f"{type(exc).__name__}: {str(exc).strip().splitlines()[0][:300] if str(exc).strip() else ''}"}


@contextmanager
def _bundle(section: Section) -> Iterator[Path]:
    """The bundle that was given, or one that is exported and gone afterwards, with graphs for GPUs."""
    if section.bundle is not None:
        yield section.bundle
        return
    from tubelet.export.gpu_graphs import make_gpu_graph

    with tempfile.TemporaryDirectory(prefix="tubelet_graphs_") as folder:
        bundle = Path(folder) / "bundle"
        section.say("exporting a bundle")
        exported_bundle(CASE.name, bundle, tiny=section.tiny)
        for precision in ("bf16", "fp16"):
            make_gpu_graph(bundle, precision, progress=section.say)
        yield bundle


def _num_units(contract: Contract, views: Views) -> int:
    return views.num_clips * views.num_crops * contract.units_per_clip


def _timed(section: Section, call: Callable[[], object], views: Views) -> dict[str, Any]:
    measured = time_calls(call, HOST, seconds=0.05 if section.tiny else 1.5)
    work = work_of(CASE.name, views, tiny=section.tiny, encoder_only=True)
    return {"ms": measured, "gflop": round(work.gflop, 3), "tflops": round(work.gflop / measured["median"], 3)}


def _bound(session: Any, units: torch.Tensor, device: torch.device) -> Callable[[], object]:
    """A run whose input lies where it is, and whose output stays on the device."""
    binding, (given,), (wanted,) = session.io_binding(), session.get_inputs(), session.get_outputs()
    kind, index = device.type, device.index or 0
    binding.bind_input(given.name, kind, index, np.uint8, tuple(units.shape), units.data_ptr())
    binding.bind_output(wanted.name, kind, index)

    _wait(device)  # the runtime has a stream of its own

    def call() -> object:
        session.run_with_iobinding(binding)
        return units  # which must outlive the binding

    return call


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
