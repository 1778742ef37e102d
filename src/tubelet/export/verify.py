"""Does a bundle compute what its checkpoint computes? An export is finished only when this says yes.

The chain units -> encoder -> temporal -> average, run by the engine that serves, is held against the torch network
on whole clips, which knows nothing of units, batches or shared work.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tubelet.checkpoints.load import load_model, sha256_file
from tubelet.export.chain import Chain
from tubelet.export.compare import Logits
from tubelet.export.digests import graphs_sha256
from tubelet.export.judge import budget_name, check_num_views, open_judge
from tubelet.export.samples import Sample, count_files, generated_sample, video_samples
from tubelet.models.network import VideoNetwork
from tubelet.preprocess.normalise import normalise
from tubelet.spec.engine import PLAIN, Arithmetic
from tubelet.spec.errors import ExportMismatchError, InvalidRequestError, RecipeError
from tubelet.spec.manifest import Contract, Manifest, Verification
from tubelet.spec.protocol import Protocol
from tubelet.spec.strict import encode

__all__ = ["PARITY_FILE", "check_passed", "find_checkpoint", "load_network", "measure", "verify_bundle", "write_parity"]

PARITY_FILE = "parity.json"
CHECKPOINT_FOLDER = Path("export/checkpoints")
SEED = 20_210_329


def verify_bundle(
    bundle: Path,
    *,
    checkpoint: Path | None,
    videos: Path | None,
    arithmetics: Sequence[Arithmetic] = PLAIN,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Verification, ...]:
    """Compares a bundle with the torch network of its checkpoint; notes in it what was found, whatever that is.

    Args:
        bundle: folder of the bundle; its ``manifest.json`` and ``parity.json`` are written again.
        checkpoint: the file; None: found by `find_checkpoint`.
        videos: folder of real videos to compare on too, by the default protocol; all but fp32 needs one.
        arithmetics: engines and precisions to look at.
        progress: told what is being done, line by line.

    Raises:
        ExportMismatchError: ``over_budget``, after everything is noted.
        ContractError: the folder is no bundle, or a graph of it belongs to another contract.
        RecipeError: ``bad_checkpoint``, where the checkpoint is not found or is another file.
        InvalidRequestError: ``bad_input``, where ``videos`` holds none or too few; ``bad_parameter``, where it is
            needed and not given.
        MachineError: ``missing``: this machine does not have the engine or the precision.
    """
    manifest = Manifest.load(bundle)
    _check_videos(manifest, arithmetics, videos)
    model = load_network(bundle, manifest, checkpoint=checkpoint)
    progress(f"comparing with {manifest.build.checkpoint.file}")
    found = measure(bundle, manifest, model=model, videos=videos, arithmetics=arithmetics, progress=progress)
    manifest = replace(manifest, build=manifest.build.with_verified(found))
    manifest.save(bundle)
    write_parity(bundle, manifest)
    check_passed(found)
    return found


def load_network(bundle: Path, manifest: Manifest, *, checkpoint: Path | None) -> VideoNetwork:
    """The torch network from which a bundle was built.

    Raises:
        RecipeError: as `find_checkpoint`.
    """
    contract, source = manifest.contract, manifest.build.checkpoint
    return load_model(
        find_checkpoint(bundle, manifest, given=checkpoint),
        format=source.format,
        network=contract.network,
        num_frames=contract.sampler.num_frames,
        crop_px=contract.crop.size_px,
    )


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
    manifest: Manifest,
    *,
    model: VideoNetwork,
    videos: Path | None,
    arithmetics: Sequence[Arithmetic],
    progress: Callable[[str], None],
) -> tuple[Verification, ...]:
    """Runs every comparison; torch computes each sample once, whatever it is held against.

    Raises:
        ContractError: a graph is missing or was exported for another contract.
        InvalidRequestError: ``bad_input``, as `verify_bundle`.
        MachineError: as `verify_bundle`.
    """
    contract, largest_batch = manifest.contract, manifest.build.largest_batch
    judges = [
        open_judge(
            Chain.open(bundle, contract, *arithmetic),
            arithmetic,
            graphs_sha256=graphs_sha256(bundle, contract, arithmetic[1], arithmetic[0]),
            largest_batch=largest_batch,
        )
        for arithmetic in arithmetics
    ]
    for sample, is_real in _samples(contract, largest_batch=largest_batch, videos=videos, progress=progress):
        expected = _torch_views(model, sample, contract)
        for judge in judges:
            judge.look(sample, expected, is_real=is_real)
    return tuple(judge.verdict() for judge in judges)


def write_parity(bundle: Path, manifest: Manifest) -> None:
    """Writes what the manifest says of every engine and precision where other tools read it: ``parity.json``."""
    results = {f"{v.engine}-{v.precision}": encode(v) for v in manifest.build.verified}
    report = {"contract_digest": manifest.contract_digest, "results": results}
    (bundle / PARITY_FILE).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def check_passed(verified: Sequence[Verification]) -> None:
    """Makes sure that all of them keep their budgets.

    Raises:
        ExportMismatchError: ``over_budget``, naming what is furthest off.
    """
    for found in verified:
        if not found.units_equal:
            raise ExportMismatchError("over_budget", f"units.onnx must cut equal bytes; by {found.engine} it does not")
        if not found.passed:
            raise ExportMismatchError("over_budget", _complaint(found))


def _check_videos(manifest: Manifest, arithmetics: Sequence[Arithmetic], videos: Path | None) -> None:
    """Says before hours of work that the videos cannot be enough."""
    if all(precision == "fp32" for _, precision in arithmetics):
        return
    if videos is None:
        raise InvalidRequestError(
            "bad_parameter", "all but fp32 is judged on real clips; give a folder of them with --videos"
        )
    num_views = Protocol.parse(manifest.contract.default_protocol).num_views
    check_num_views(num_views * count_files(videos))


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


def _complaint(found: Verification) -> str:
    worst = max(found.measured, key=lambda m: math.inf if m.max_abs_logit is None else m.max_abs_logit)
    max_abs, cosine = ("no number" if x is None else f"{x:.9g}" for x in (worst.max_abs_logit, worst.cosine))
    budget = found.budget
    return (
        f"{found.engine} {found.precision}, {worst.stage}: max abs {max_abs}, cosine {cosine}, top-1 agreement "
        f"{worst.top1_agreement:.4g}; {budget_name((found.engine, found.precision))} allows {budget.max_abs_logit}, "
        f"{budget.min_cosine}, {budget.min_top1_agreement}; all comparisons are in {PARITY_FILE}"
    )
