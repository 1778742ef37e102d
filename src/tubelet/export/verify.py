"""Does a bundle compute what its checkpoint computes? An export is finished only when this says yes.

The chain units -> encoder -> temporal -> average, run by the engine that serves, is held against the torch network
on whole clips, which knows nothing of units, batches or shared work.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tubelet.averaging import average_views, probabilities
from tubelet.checkpoints.load import load_model, sha256_file
from tubelet.engines.base import Engine, EngineSettings
from tubelet.engines.open import open_graph
from tubelet.export.compare import Logits, compare, within
from tubelet.export.onnx import graph_file
from tubelet.export.samples import Sample, generated_sample, video_samples
from tubelet.models.network import VideoNetwork
from tubelet.preprocess.geometry import cut_units
from tubelet.preprocess.normalise import normalise
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.errors import ExportMismatchError, RecipeError
from tubelet.spec.manifest import Budget, Contract, Manifest, Measurement
from tubelet.spec.strict import encode
from tubelet.spec.tensors import GRAPH_STEPS, Step, step_tensors

__all__ = ["BUDGET", "PARITY_FILE", "find_checkpoint", "measure", "verify_bundle"]

PARITY_FILE = "parity.json"
BUDGET = "engine-fp32/torch-fp32"
CHECKPOINT_FOLDER = Path("export/checkpoints")
ODD_BATCH = 5
"""Units per run of the encoder, beside one and the most: a number that divides nothing."""
SEED = 20_210_329

Arrays = dict[str, NDArray[Any]]


def verify_bundle(
    bundle: Path,
    *,
    checkpoint: Path | None,
    videos: Path | None,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Measurement, ...]:
    """Compares a bundle with the torch network of its checkpoint and writes ``parity.json``.

    Args:
        bundle: folder of the bundle.
        checkpoint: the file; None: found by `find_checkpoint`.
        videos: folder of real videos to compare on too, by the default protocol.
        progress: told what is being done, line by line.

    Raises:
        ExportMismatchError: ``over_budget``, after ``parity.json`` is written.
        ContractError: the folder is no bundle, or a graph of it belongs to another contract.
        RecipeError: ``bad_checkpoint``, where the checkpoint is not found or is another file.
        InvalidRequestError: ``bad_input``, where ``videos`` holds none.
    """
    manifest = Manifest.load(bundle)
    source = manifest.build.checkpoint
    path = find_checkpoint(bundle, manifest, given=checkpoint)
    progress(f"comparing with {source.file}")
    contract = manifest.contract
    model = load_model(
        path,
        format=source.format,
        network=contract.network,
        num_frames=contract.sampler.num_frames,
        crop_px=contract.crop.size_px,
    )
    largest_batch = manifest.build.largest_batch
    return measure(bundle, contract, model=model, largest_batch=largest_batch, videos=videos, progress=progress)


def find_checkpoint(bundle: Path, manifest: Manifest, *, given: Path | None) -> Path:
    """Finds the file from which a bundle was built: as given, beside the manifest, or in ``export/checkpoints/``.

    Raises:
        RecipeError: ``bad_checkpoint``, where there is none, or its SHA-256 is not the one of the manifest.
    """
    source = manifest.build.checkpoint
    places = [given] if given is not None else [bundle / source.file, CHECKPOINT_FOLDER / source.file]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise RecipeError(
            "bad_checkpoint",
            f"the checkpoint {source.file} is not at {' or '.join(map(str, places))}; name it, or get it from "
            f"{source.source}",
        )
    found = sha256_file(path)
    if found != source.sha256:
        raise RecipeError(
            "bad_checkpoint",
            f"{path} is not the file that the bundle was built from: SHA-256 {source.sha256} is expected, got {found}",
        )
    return path


def measure(
    bundle: Path,
    contract: Contract,
    *,
    model: VideoNetwork,
    largest_batch: int,
    videos: Path | None,
    progress: Callable[[str], None],
) -> tuple[Measurement, ...]:
    """Runs every comparison and writes ``parity.json`` into the bundle, whatever comes out.

    Raises:
        ExportMismatchError: ``over_budget``, naming what is furthest off.
        ContractError: a graph is missing or was exported for another contract.
    """
    chain = _Chain.open(bundle, contract)
    samples = _samples(contract, largest_batch=largest_batch, videos=videos, progress=progress)
    batches = sorted({1, min(ODD_BATCH, largest_batch), largest_batch})
    comparisons = [
        comparison
        for sample, is_real in samples
        for comparison in _compare_sample(chain, sample, model=model, batches=batches[-1:] if is_real else batches)
    ]
    measured = tuple(comparison for comparison in comparisons if isinstance(comparison, Measurement))
    unequal = [comparison for comparison in comparisons if isinstance(comparison, str)]
    budget = BUDGETS[BUDGET]
    over = [m for m in measured if not within(budget, m)]
    _write_parity(bundle, contract, measured=measured, unequal=unequal, passed=not over and not unequal)
    if unequal:
        raise ExportMismatchError("over_budget", f"units.onnx must cut equal bytes; it does not for {unequal[0]}")
    if over:
        raise ExportMismatchError("over_budget", _complaint(budget, over))
    return measured


@dataclass(frozen=True, slots=True)
class _Chain:
    """The graphs of a bundle, one after the other, as Triton runs them."""

    contract: Contract
    engines: dict[Step, Engine]

    @classmethod
    def open(cls, bundle: Path, contract: Contract) -> _Chain:
        threads = len(os.sched_getaffinity(0))
        steps = [step for step in step_tensors(contract) if step in GRAPH_STEPS]
        engines = {step: open_graph(bundle / graph_file(step), contract, threads=threads) for step in steps}
        return cls(contract, engines)

    def units(self, sample: Sample) -> NDArray[np.uint8]:
        feeds: Arrays = {"FRAMES": sample.frames, "UNIT_FRAMES": sample.unit_frames, "CROPS": sample.crops}
        return self.engines["units"].run(feeds)["UNITS"]

    def answer(self, sample: Sample, units: NDArray[np.uint8], *, batch: int) -> Arrays:
        """VIEW_LOGITS, and what the step ``average`` makes of them; ``batch`` units in a run of the encoder."""
        tensors = {"CLIP_UNITS": sample.clip_units, "CROPS": sample.crops, "CLIP_POSITIONS": sample.clip_positions}
        encoder = self.engines["encoder"]
        encoded = [encoder.run({"UNITS": units[i : i + batch]}) for i in range(0, len(units), batch)]
        tensors |= {name: np.concatenate([run[name] for run in encoded]) for name in encoded[0]}
        for step, (inputs, _) in step_tensors(self.contract).items():
            if step in ("temporal", "average"):
                wanted = {spec.name: tensors.get(spec.source or spec.name) for spec in inputs}
                tensors |= self.engines[step].run({name: array for name, array in wanted.items() if array is not None})
        return tensors


def _samples(
    contract: Contract, *, largest_batch: int, videos: Path | None, progress: Callable[[str], None]
) -> Iterator[tuple[Sample, bool]]:
    """Yields samples, and whether they are real videos."""
    lengths = [contract.sampler.num_frames]
    if contract.geometry.any_length:
        lengths.append(2 * contract.sampler.num_frames + 1)
    if contract.full_video is not None:
        lengths.append(contract.full_video.num_frames)
    for num_frames in lengths:
        yield generated_sample(contract, num_frames=num_frames, largest_batch=largest_batch, seed=SEED), False
    for sample in video_samples(videos, contract) if videos is not None else ():
        if isinstance(sample, str):
            progress(sample)
            continue
        progress(f"{sample.name}: {sample.num_views} views")
        yield sample, True


def _compare_sample(
    chain: _Chain, sample: Sample, *, model: VideoNetwork, batches: Sequence[int]
) -> Iterator[Measurement | str]:
    """Yields measurements, and the name of the sample when its units are not equal to the bit."""
    contract = chain.contract
    units = chain.units(sample)
    expected_units = cut_units(sample.frames, sample.unit_frames, sample.crops, size_px=contract.crop.size_px)
    if not np.array_equal(units, expected_units):
        yield sample.name
    views = _torch_views(model, sample, contract)
    for batch in batches:
        found = chain.answer(sample, units, batch=batch)
        stage = f"{sample.name}: views, {batch} units at once"
        yield compare(found["VIEW_LOGITS"], views, contract=contract, stage=stage, num_views=sample.num_views)
    logits = average_views(views.astype(np.float64), contract.aggregation, contract.heads).astype(np.float32)
    expected = {"LOGITS": logits, "PROBABILITIES": probabilities(logits, contract.heads)}
    for name, array in expected.items():
        stage = f"{sample.name}: {name.lower()}"
        yield compare(found[name][None], array[None], contract=contract, stage=stage, num_views=sample.num_views)


def _torch_views(model: VideoNetwork, sample: Sample, contract: Contract) -> Logits:
    """Each view as the papers see it: the whole clip in one crop, through the whole network, one at a time."""
    side, rows = contract.crop.size_px, []
    clips = sample.unit_frames[sample.clip_units].reshape(len(sample.clip_units), -1)
    with torch.inference_mode():
        for clip, positions in zip(clips, torch.from_numpy(sample.clip_positions).long(), strict=True):
            for y, x in sample.crops.tolist():
                pixels = torch.from_numpy(
                    normalise(contract.normalisation, sample.frames[clip, y : y + side, x : x + side])
                )
                rows.append(model(pixels[None], positions[None]).numpy())
    return np.concatenate(rows)


def _complaint(budget: Budget, over: list[Measurement]) -> str:
    worst = max(over, key=lambda m: math.inf if math.isnan(m.max_abs_logit) else m.max_abs_logit)
    return (
        f"{worst.stage}: max abs {worst.max_abs_logit:.3g}, cosine {worst.cosine:.9g}, top-1 agreement "
        f"{worst.top1_agreement:.4g}; {BUDGET} allows {budget.max_abs_logit}, {budget.min_cosine}, "
        f"{budget.min_top1_agreement}; all comparisons are in {PARITY_FILE}"
    )


def _write_parity(
    bundle: Path,
    contract: Contract,
    *,
    measured: tuple[Measurement, ...],
    unequal: list[str],
    passed: bool,
) -> None:
    report = {
        "contract_digest": contract.digest,
        "engine": "onnxruntime",
        "compared": BUDGET,
        "budget": encode(BUDGETS[BUDGET]),
        "passed": passed,
        "units_equal": not unequal,
        "measured": [_finite(encode(measurement)) for measurement in measured],
    }
    (bundle / PARITY_FILE).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN; null says that there is no number."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
