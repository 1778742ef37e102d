"""The files of a model repository: configurations, graphs, labels, the steps' one-line Python files."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tubelet.export.configs import PRODUCT_LABELS
from tubelet.export.staging import link_or_copy
from tubelet.preprocess.canary import canary_video
from tubelet.spec.manifest import Contract
from tubelet.spec.tensors import CHAINS, Step, ways_in

__all__ = ["all_labels", "write_ensemble", "write_model"]


def write_model(
    out: Path,
    bundle: Path,
    contract: Contract,
    *,
    configs: Mapping[str, pb.ModelConfig],
    files: Mapping[Step, tuple[str, str]],
) -> None:
    """Writes the folders of one model.

    Args:
        out: the repository's folder.
        bundle: the bundle's folder.
        contract: of the bundle.
        configs: by the name of their folder.
        files: by step: a graph or a plan of the bundle, and the name that it gets.
    """
    labels = all_labels(bundle, contract)
    for name, config in configs.items():
        _write_folder(out / name, config, labels={"labels.txt": labels} if config.platform == "ensemble" else {})
        if config.backend == "python":
            _write_shim(out / name, name.removeprefix(f"{contract.name}_"))
    for step, (source, name) in files.items():
        _place(bundle / source, out / f"{contract.name}_{step}" / "1" / name)
    last = [step for step in CHAINS["video"] if f"{contract.name}_{step}" in configs][-1]
    answering = out / f"{contract.name}_{last}" / "1"
    (answering / "labels.txt").write_text(labels, encoding="utf-8")
    if contract.product is not None:
        product = _product_labels(bundle, contract)
        for folder in (answering, *(out / name for name, _ in ways_in(contract).values())):
            (folder / PRODUCT_LABELS).write_text(product, encoding="utf-8")
    _write_warmup(out / f"{contract.name}_sample")


def write_ensemble(out: Path, labels: str, configs: Mapping[str, pb.ModelConfig]) -> None:
    """Writes the folders of models that answer together: the public one, and the step ``combine``."""
    for name, config in configs.items():
        is_public = config.platform == "ensemble"
        _write_folder(out / name, config, labels={"labels.txt": labels} if is_public else {})
        if not is_public:
            _write_shim(out / name, "combine")
            (out / name / "1" / "labels.txt").write_text(labels, encoding="utf-8")


def all_labels(bundle: Path, contract: Contract) -> str:
    """One label a line for each entry of PROBABILITIES; with several heads, the head's name stands before it."""
    if len(contract.heads) == 1:
        return (bundle / "labels.txt").read_text(encoding="utf-8")
    files = {head.name: bundle / f"labels.{head.name}.txt" for head in contract.heads}
    return "".join(
        f"{name}: {label}\n" for name, file in files.items() for label in file.read_text(encoding="utf-8").splitlines()
    )


def _write_folder(folder: Path, config: pb.ModelConfig, *, labels: Mapping[str, str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1").mkdir(parents=True)
    text = text_format.MessageToString(config, use_short_repeated_primitives=True)
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    if config.platform == "ensemble":
        # An ensemble's version is an empty folder, which git and archives would drop.
        (folder / "1" / ".keep").touch()
    for name, content in labels.items():
        (folder / name).write_text(content, encoding="utf-8")


def _write_shim(folder: Path, step: str) -> None:
    shim = f"from tubelet.server.steps.{step} import TritonPythonModel\n"
    (folder / "1" / "model.py").write_text(shim, encoding="utf-8")


def _product_labels(bundle: Path, contract: Contract) -> str:
    """One label a line for each entry of PRODUCT: the labels of the heads side by side, the last head's fastest."""
    lists = [(bundle / f"labels.{h.name}.txt").read_text(encoding="utf-8").splitlines() for h in contract.heads]
    return "".join(", ".join(labels) + "\n" for labels in itertools.product(*lists))


def _place(source: Path, place: Path) -> None:
    """Puts a graph or a plan into a version's folder; weights that lie beside it keep the name that it knows."""
    link_or_copy(source, place)
    if (weights := source.with_name(f"{source.name}.data")).is_file():
        link_or_copy(weights, place.with_name(weights.name))


def _write_warmup(folder: Path) -> None:
    """Triton's form of a BYTES element in a file: four bytes of length, little-endian, then the bytes."""
    video = canary_video()
    (folder / "warmup").mkdir()
    (folder / "warmup" / "VIDEO").write_bytes(len(video).to_bytes(4, "little") + video)
