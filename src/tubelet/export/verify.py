"""Does a bundle compute what its checkpoint computes? An export is finished only when this says yes.

The chain units -> encoder -> temporal -> average, run by the engine that serves, is held against the torch network
on whole clips, which knows nothing of units, batches or shared work.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tubelet.checkpoints.load import load_model, sha256_file
from tubelet.engines import Engine, open_graph
from tubelet.export.compare import Logits, compare, probabilities, within
from tubelet.export.onnx import GRAPH_STEPS, graph_file
from tubelet.export.samples import Sample, generated_sample, video_samples
from tubelet.models.vivit import FactorisedEncoder
from tubelet.preprocess.geometry import cut_units
from tubelet.preprocess.normalise import normalise
from tubelet.spec.budgets import BUDGETS
from tubelet.spec.errors import ExportMismatchError, RecipeError
from tubelet.spec.manifest import Budget, Contract, Manifest, Measurement
from tubelet.spec.strict import encode

__all__ = ["BUDGET", "PARITY_FILE", "find_checkpoint", "measure", "verify_bundle"]

PARITY_FILE = "parity.json"
BUDGET = "engine-fp32/torch-fp32"
CHECKPOINT_FOLDER = Path("export/checkpoints")
BATCHES = (1, 5, 64)
"""Units per run of the encoder: one alone, a number that divides nothing, many."""
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
    model = load_model(path, format=source.format, family=contract.family, variant=contract.variant)
    return measure(bundle, contract, model=model, videos=videos, progress=progress)


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
    model: FactorisedEncoder,
    videos: Path | None,
    progress: Callable[[str], None],
) -> tuple[Measurement, ...]:
    """Runs every comparison and writes ``parity.json`` into the bundle, whatever comes out.

    Raises:
        ExportMismatchError: ``over_budget``, naming what is furthest off.
        ContractError: a graph is missing or was exported for another contract.
    """
    chain = _Chain.open(bundle, contract)
    comparisons = list(_comparisons(chain, model=model, videos=videos, progress=progress))
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
    engines: dict[str, Engine]

    @classmethod
    def open(cls, bundle: Path, contract: Contract) -> _Chain:
        threads = len(os.sched_getaffinity(0))
        engines = {step: open_graph(bundle / graph_file(step), contract, threads=threads) for step in GRAPH_STEPS}
        return cls(contract, engines)

    def units(self, sample: Sample) -> NDArray[np.uint8]:
        feeds: Arrays = {"FRAMES": sample.frames, "UNIT_FRAMES": sample.unit_frames, "CROPS": sample.crops}
        return self.engines["units"].run(feeds)["UNITS"]

    def views(self, sample: Sample, units: NDArray[np.uint8], *, batch: int) -> Logits:
        encoder = self.engines["encoder"]
        chunks = (units[i : i + batch] for i in range(0, len(units), batch))
        features = np.concatenate([encoder.run({"UNITS": chunk})["FEATURES"] for chunk in chunks])
        feeds: Arrays = {"FEATURES": features, "CLIP_UNITS": sample.clip_units, "CROPS": sample.crops}
        return self.engines["temporal"].run(feeds)["VIEW_LOGITS"]

    def answer(self, view_logits: Logits) -> tuple[Logits, Logits]:
        found = self.engines["average"].run({"VIEW_LOGITS": view_logits})
        return found["LOGITS"][None], found["PROBABILITIES"][None]


def _comparisons(
    chain: _Chain, *, model: FactorisedEncoder, videos: Path | None, progress: Callable[[str], None]
) -> Iterator[Measurement | str]:
    """Yields measurements, and the names of samples whose units are not equal to the bit."""
    real = video_samples(videos, chain.contract) if videos is not None else ()
    yield from _compare_sample(chain, generated_sample(chain.contract, seed=SEED), model=model, batches=BATCHES)
    for sample in real:
        if isinstance(sample, str):
            progress(sample)
            continue
        progress(f"{sample.name}: {sample.num_views} views")
        yield from _compare_sample(chain, sample, model=model, batches=BATCHES[-1:])


def _compare_sample(
    chain: _Chain, sample: Sample, *, model: FactorisedEncoder, batches: tuple[int, ...]
) -> Iterator[Measurement | str]:
    contract = chain.contract
    units = chain.units(sample)
    expected_units = cut_units(sample.frames, sample.unit_frames, sample.crops, size_px=contract.crop.size_px)
    if not np.array_equal(units, expected_units):
        yield sample.name
    expected = _torch_views(model, sample, contract)
    for batch in batches:
        view_logits = chain.views(sample, units, batch=batch)
        stage = f"{sample.name}: views, {batch} units at once"
        yield compare(view_logits, expected, contract=contract, stage=stage, num_views=sample.num_views)
    mean = expected.mean(axis=0, dtype=np.float64)[None].astype(np.float32)
    answers = {"logits": mean, "probabilities": probabilities(mean, contract)}
    for (kind, wanted), found in zip(answers.items(), chain.answer(view_logits), strict=True):
        stage = f"{sample.name}: {kind}"
        yield compare(found, wanted, contract=contract, stage=stage, num_views=sample.num_views)


def _torch_views(model: FactorisedEncoder, sample: Sample, contract: Contract) -> Logits:
    """Each view as the papers see it: the whole clip in one crop, through the whole network, one at a time."""
    side, rows = contract.crop.size_px, []
    with torch.inference_mode():
        for clip in sample.unit_frames[sample.clip_units].reshape(len(sample.clip_units), -1):
            for y, x in sample.crops.tolist():
                pixels = sample.frames[clip, y : y + side, x : x + side]
                rows.append(model(torch.from_numpy(normalise(contract.normalisation, pixels))[None]).numpy())
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
