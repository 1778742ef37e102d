"""The encoder's graph for GPUs, one per precision: attention fused, types written out, checked as TensorRT imports it.

All of it happens here, on a processor; a plan is built from the result elsewhere. float32 needs no graph of its own:
the bundle's serves, since TensorRT has no fused attention in float32.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import onnx
import onnx_ir as ir

from tubelet.export.attention import Fusion, fuse_attention
from tubelet.export.digests import graph_sha256
from tubelet.export.eight_bits import EightBits, to_eight_bits
from tubelet.export.onnx import EXTERNAL_DATA_BYTES
from tubelet.export.precision import lower, store_counts, take_shapes_from_floats
from tubelet.export.quantise import NUM_CLIPS, calibrate
from tubelet.export.staging import link_or_copy, staging
from tubelet.export.stored import read_graph, write_graph
from tubelet.export.tensorrt_ops import check_tensorrt_support
from tubelet.export.verify import PARITY_FILE, write_parity
from tubelet.spec.engine import graph_file, plan_file, target_of
from tubelet.spec.errors import ContractError, InternalError, InvalidRequestError
from tubelet.spec.manifest import Contract, Manifest

__all__ = ["LowPrecision", "Made", "make_gpu_graph"]

LowPrecision = Literal["fp16", "bf16", "fp8", "int8"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What `make_gpu_graph` wrote."""

    file: str
    """Its path in the bundle."""
    attention: Fusion
    quantised_layers: int
    """Linear layers in eight bits."""
    weight_bytes: int


def make_gpu_graph(
    bundle: Path,
    precision: LowPrecision,
    *,
    videos: Path | None = None,
    num_clips: int = NUM_CLIPS,
    progress: Callable[[str], None] = lambda line: None,
    external_data_bytes: int = EXTERNAL_DATA_BYTES,
) -> Made:
    """Writes ``gpu/encoder.<precision>.onnx`` into a bundle; a failure leaves the bundle as it was.

    A plan that was built from an older graph of that precision is removed, and what was found of it forgotten.

    Args:
        bundle: folder of the bundle.
        precision: fp16 or bf16; fp8 or int8 in the linear layers and fp16 elsewhere.
        videos: folder of videos such as the model will see; fp8 and int8 are calibrated on them.
        num_clips: how many of them, spread evenly over their names in alphabetical order.
        progress: told what is being done, line by line.
        external_data_bytes: weights of more bytes lie beside the graph.

    Raises:
        ContractError: the folder is no bundle, or its encoder is missing or belongs to another contract.
        InvalidRequestError: ``bad_parameter``: fp8 and int8 without videos; ``bad_input``: the network or its weights
            do not bear the precision, or, as `tubelet.export.quantise.quantise_bundle`, the videos do not serve.
        InternalError: TensorRT's importer would refuse the result.
    """
    if precision not in get_args(LowPrecision):
        raise InvalidRequestError("bad_parameter", f"precision is fp16, bf16, fp8 or int8 here, not {precision}")
    manifest = Manifest.load(bundle)
    model = _load(bundle, manifest.contract, precision=precision, videos=videos, num_clips=num_clips, progress=progress)
    _check_layers(model, precision)
    progress(f"writing {precision}")
    fusion = fuse_attention(model)
    take_shapes_from_floats(model.graph)
    store_counts(model.graph)
    quantised = to_eight_bits(model, precision) if precision in get_args(EightBits) else 0  # type: ignore[arg-type]
    lower(model, ir.DataType.BFLOAT16 if precision == "bf16" else ir.DataType.FLOAT16)
    model.metadata_props.update({"precision": precision, "quantised_layers": str(quantised)})
    model.metadata_props.update({f"attention_{name}": str(value) for name, value in asdict(fusion).items()})
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    made = Made(
        file=graph_file("encoder", precision, "gpu"),
        attention=fusion,
        quantised_layers=quantised,
        weight_bytes=weights,
    )
    _place(model, bundle, manifest, precision, external=weights > external_data_bytes)
    return made


def _load(
    bundle: Path,
    contract: Contract,
    *,
    precision: LowPrecision,
    videos: Path | None,
    num_clips: int,
    progress: Callable[[str], None],
) -> ir.Model:
    """The encoder in float32, calibrated where that is needed."""
    graph = bundle / graph_file("encoder")
    if precision in get_args(EightBits):
        if videos is None:
            raise InvalidRequestError(
                "bad_parameter", f"{precision} is calibrated on real clips; give a folder of them with --videos"
            )
        proto, _ = calibrate(graph, contract, videos=videos, num_clips=num_clips, progress=progress, for_gpu=True)
        return ir.from_proto(proto)
    if not graph.is_file():
        raise ContractError("contract_mismatch", f"{graph.name} is not there; export the bundle again")
    model = read_graph(graph)
    if model.metadata_props.get("contract_digest") != contract.digest:
        raise ContractError("contract_mismatch", f"{graph.name} was exported for another contract; export it again")
    return model


def _check_layers(model: ir.Model, precision: LowPrecision) -> None:
    num_convolutions = sum(node.op_type == "Conv" for node in model.graph)
    if precision == "fp8" and num_convolutions > 1:
        raise InvalidRequestError(
            "bad_input",
            f"this network has {num_convolutions} convolutions, and fp8 is for linear layers; take int8 or fp16",
        )


def _place(model: ir.Model, bundle: Path, manifest: Manifest, precision: LowPrecision, *, external: bool) -> None:
    """Puts the graph in the place of an older one, and drops what was made of that, where it is another."""
    file, plan = graph_file("encoder", precision, "gpu"), plan_file("encoder", precision)
    with staging(bundle) as folder:
        shutil.copytree(bundle, folder, copy_function=link_or_copy, dirs_exist_ok=True)
        _remove(folder, file, f"{file}.data")
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        write_graph(model, path, beside=external)
        onnx.checker.check_model(path, full_check=True)
        if findings := check_tensorrt_support(path):
            raise InternalError("internal", f"TensorRT would refuse {file}: {'; '.join(map(str, findings))}")
        if (bundle / file).is_file() and graph_sha256(bundle, file) == graph_sha256(folder, file):
            return
        _remove(folder, plan, f"{plan}.json", PARITY_FILE)
        kept = tuple(v for v in manifest.build.verified if v.precision != precision or target_of(v.engine) == "cpu")
        manifest = replace(manifest, build=replace(manifest.build, verified=kept))
        manifest.save(folder)
        write_parity(folder, manifest)


def _remove(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).unlink(missing_ok=True)
