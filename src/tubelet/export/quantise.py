"""Post-training quantisation: the encoder's weights and activations in eight bits, calibrated on real clips.

NNCF puts pairs of QuantizeLinear and DequantizeLinear into the ONNX graph, which both engines read. How far the result
is from the checkpoint is for `tubelet verify` to say; what was tried is in docs/adr/0015-engines.md.
"""

from __future__ import annotations

import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tubelet.engines.silence import silence
from tubelet.export.samples import spread, video_samples
from tubelet.export.staging import link_or_copy, staging
from tubelet.export.stored import read_proto
from tubelet.export.verify import PARITY_FILE, write_parity
from tubelet.preprocess.geometry import cut_units
from tubelet.spec.engine import graph_file, target_of
from tubelet.spec.errors import ContractError, InvalidRequestError
from tubelet.spec.manifest import Calibration, Contract, Manifest
from tubelet.spec.strict import encode

__all__ = ["NUM_CLIPS", "calibrate", "quantise_bundle"]

NUM_CLIPS = 64
"""Videos to calibrate on, where the caller does not say."""

LAYERS = ("Conv", "MatMul", "Gemm")
"""What multiplies. The first of them sees pixels and stays as it was: in eight bits it costs more accuracy than all the
others together, and it is a hundredth of a full-size model's work."""

MOST_BYTES = 1_900_000_000
"""Of a graph and its weights: NNCF hands them to ONNX Runtime in one message, which ends at 2 GiB."""

MOST_UNITS_PER_CLIP = 4
"""Units of one clip show much the same; others' say more."""


def quantise_bundle(
    bundle: Path,
    *,
    videos: Path,
    num_clips: int = NUM_CLIPS,
    progress: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Writes ``encoder.int8.onnx`` into a bundle; a failure leaves the bundle as it was.

    What was found of an older int8 graph is forgotten: `tubelet verify` looks at the new one.

    Args:
        bundle: folder of the bundle.
        videos: folder of videos such as the model will see, prepared by the default protocol.
        num_clips: how many of them, spread evenly over their names in alphabetical order.
        progress: told what is being done, line by line.

    Returns:
        The new manifest.

    Raises:
        ContractError: the folder is no bundle, or its encoder is missing or belongs to another contract.
        InvalidRequestError: ``bad_input``: ``videos`` holds none, or the encoder is too large.
    """
    manifest = Manifest.load(bundle)
    model, calibration = calibrate(
        bundle / graph_file("encoder"), manifest.contract, videos=videos, num_clips=num_clips, progress=progress
    )
    kept = tuple(v for v in manifest.build.verified if v.precision != "int8" or target_of(v.engine) == "gpu")
    manifest = replace(manifest, build=replace(manifest.build, int8=calibration, verified=kept))
    _place(model, manifest, bundle)
    return manifest


def calibrate(
    graph: Path,
    contract: Contract,
    *,
    videos: Path,
    num_clips: int,
    progress: Callable[[str], None],
    for_gpu: bool = False,
) -> tuple[onnx.ModelProto, Calibration]:
    """Quantises an encoder's float32 graph; its metadata says on what it was calibrated.

    Args:
        graph: the file.
        contract: of the bundle.
        videos: as `quantise_bundle`.
        num_clips: likewise.
        progress: likewise.
        for_gpu: as TensorRT wants it: every scale symmetric, nothing but linear layers, the head as it was, weights
            left in float32 in front of their QuantizeLinear.

    Raises:
        ContractError: the graph is missing or belongs to another contract.
        InvalidRequestError: ``bad_input``, as `quantise_bundle`.
    """
    nncf = _load_nncf()
    clips = list(_clips_units(videos, contract, num_clips=num_clips, progress=progress))
    units = [unit for clip in clips for unit in clip]
    calibration = Calibration(tool=f"nncf {nncf.__version__}", num_clips=len(clips), num_units=len(units))
    progress(f"quantising on {len(units)} units of {len(clips)} clips")
    model = _quantise(nncf, graph, contract, units, for_gpu=for_gpu)
    for name, value in encode(calibration).items():
        model.metadata_props.add(key=f"calibration_{name}", value=str(value))
    return model, calibration


def _clips_units(
    videos: Path, contract: Contract, *, num_clips: int, progress: Callable[[str], None]
) -> Iterator[NDArray[np.uint8]]:
    """Yields UNITS uint8 ``[u, t, S, S, 3]`` of each clip: a few of them, from its start to its end."""
    for sample in video_samples(videos, contract, most=num_clips):
        if isinstance(sample, str):
            progress(sample)
            continue
        units = cut_units(sample.frames, sample.unit_frames, sample.crops, size_px=contract.crop.size_px)
        yield units[spread(len(units), MOST_UNITS_PER_CLIP)]


def _quantise(
    nncf: Any, graph: Path, contract: Contract, units: list[NDArray[np.uint8]], *, for_gpu: bool
) -> onnx.ModelProto:
    """The ONNX model with eight-bit operations, all but the first layer."""
    if not graph.is_file():
        raise ContractError("contract_mismatch", f"{graph.name} is not there; export the bundle again")
    size = sum(file.stat().st_size for file in (graph, graph.with_name(f"{graph.name}.data")) if file.is_file())
    if size > MOST_BYTES:
        raise InvalidRequestError(
            "bad_input",
            f"{graph.name} has {size / 1e9:.1f} GB, int8 is made of graphs up to {MOST_BYTES / 1e9:.1f} GB; take bf16",
        )
    model = read_proto(graph)
    if {entry.key: entry.value for entry in model.metadata_props}.get("contract_digest") != contract.digest:
        raise ContractError("contract_mismatch", f"{graph.name} was exported for another contract; export it again")
    with _quiet(nncf):
        quantised: onnx.ModelProto = nncf.quantize(
            model,
            nncf.Dataset([{"UNITS": unit[None]} for unit in units]),
            subset_size=len(units),
            model_type=None if contract.network.family == "i3d" else nncf.ModelType.TRANSFORMER,
            **_scheme(nncf, model, contract, for_gpu=for_gpu),
        )
    return quantised


def _scheme(nncf: Any, model: onnx.ModelProto, contract: Contract, *, for_gpu: bool) -> dict[str, Any]:
    """What is quantised, and how."""
    layers = [node.name for node in model.graph.node if node.op_type in LAYERS]
    if not for_gpu:
        return {
            "preset": nncf.QuantizationPreset.MIXED,
            "ignored_scope": nncf.IgnoredScope(names=layers[:1]),
        }
    stored = {tensor.name for tensor in model.graph.initializer}
    linear = [node.name for node in model.graph.node if node.name in set(layers) and node.input[1] in stored]
    # A joint network ends with its head.
    chosen = set(linear[1:-1] if contract.is_joint else linear[1:])
    return {
        "preset": nncf.QuantizationPreset.PERFORMANCE,
        "ignored_scope": nncf.IgnoredScope(names=[n.name for n in model.graph.node if n.name not in chosen]),
        "advanced_parameters": nncf.AdvancedQuantizationParameters(backend_params={"compress_weights": False}),
    }


def _place(model: onnx.ModelProto, manifest: Manifest, bundle: Path) -> None:
    """Puts the graph, the manifest and parity.json in the place of the old ones, all at once."""
    name = graph_file("encoder", "int8")
    with staging(bundle) as folder:
        shutil.copytree(bundle, folder, copy_function=link_or_copy, dirs_exist_ok=True)
        for old in (folder / name, folder / PARITY_FILE):
            old.unlink(missing_ok=True)
        onnx.save_model(model, folder / name)
        onnx.checker.check_model(folder / name)
        manifest.save(folder)
        write_parity(folder, manifest)


def _load_nncf() -> Any:
    silence()
    import nncf

    return nncf


@contextmanager
def _quiet(nncf: Any) -> Iterator[None]:
    """Silences what NNCF tells its own developers, and its progress bars, which know no `progress`."""
    nncf.set_log_level(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
