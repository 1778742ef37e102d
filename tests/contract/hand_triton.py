"""Ensembles of a model repository, walked by hand in this process: what Triton would do, one step after the other.

The steps that are Python backends are the repository's own, with a stand-in for Triton's module; the graphs run with
ONNX Runtime on the processor, whatever their configuration says they run on. A plan cannot be read without TensorRT:
for it the graph runs that it would be built from, within the profiles that stand beside it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import onnxruntime
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as pb

from tubelet.export.digests import graph_sha256
from tubelet.export.profiles import plan_profiles, plan_steps
from tubelet.spec.engine import Precision, graph_file, plan_file
from tubelet.spec.errors import error_from_text
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Manifest
from tubelet.spec.plan import BuildOptions, Gpu, Plan, Profile

Arrays = Mapping[str, NDArray[Any]]

DTYPES = {
    pb.TYPE_STRING: np.object_,
    pb.TYPE_UINT8: np.uint8,
    pb.TYPE_INT32: np.int32,
    pb.TYPE_FP32: np.float32,
    pb.TYPE_FP64: np.float64,
}
CARD = Gpu(name="NVIDIA H100 80GB HBM3", compute_capability="9.0", driver="580.0")
TENSORRT = "11.2.1.2"


@dataclass
class Tensor:
    array_name: str
    array: NDArray[Any]

    def name(self) -> str:
        return self.array_name

    def as_numpy(self) -> NDArray[Any]:
        return self.array


@dataclass
class Response:
    """Triton's answer of a step."""

    outputs: list[Tensor] = field(default_factory=list)
    problem: str | None = None

    def __init__(self, output_tensors: list[Tensor] | None = None, error: str | None = None) -> None:
        self.outputs, self.problem = output_tensors or [], error

    def has_error(self) -> bool:
        return self.problem is not None

    def error(self) -> Any:
        return SimpleNamespace(message=lambda: self.problem)

    def output_tensors(self) -> list[Tensor]:
        return self.outputs


@dataclass
class Request:
    """A request, as Triton gives it to a Python backend."""

    tensors: list[Tensor]
    values: Mapping[str, object]
    wanted: frozenset[str]

    def inputs(self) -> list[Tensor]:
        return self.tensors

    def parameters(self) -> str:
        return json.dumps(self.values)

    def requested_output_names(self) -> frozenset[str]:
        return self.wanted

    def is_cancelled(self) -> bool:
        return False


class HandTriton:
    """A repository, served by hand.

    ``triton`` is the stand-in that the steps import; ``graphs`` says by which graph a plan is replaced, by the folder's
    name, and ``session`` opens a graph.
    """

    def __init__(
        self,
        repository: Path,
        triton: MagicMock,
        *,
        graphs: Mapping[str, tuple[Path, tuple[Profile, ...]]] | None = None,
        session: Callable[[Path], Callable[[Arrays], Arrays]] | None = None,
    ) -> None:
        self.repository, self.graphs = repository, graphs or {}
        self.session = session or open_session
        self.configs = read_configs(repository)
        self.steps: dict[str, Any] = {}
        self.ran: list[str] = []
        self.triton = triton
        triton.Tensor, triton.InferenceResponse = Tensor, Response
        triton.TritonError.side_effect = lambda message, code: message

    def infer(
        self,
        public: str,
        inputs: Arrays,
        parameters: Mapping[str, object] | None = None,
        *,
        with_features: bool = False,
    ) -> dict[str, NDArray[Any]]:
        """Sends one request through an ensemble; raises our errors as a client would get them."""
        ensemble = self.configs[public]
        self.triton.InferenceRequest = self._call  # several repositories share the stand-in
        given = dict(inputs)
        unwanted = set() if with_features else {"FEATURES", "POSITIONS"}
        asked = {tensor.name for tensor in ensemble.output} - unwanted
        steps = list(ensemble.ensemble_scheduling.step)
        for step in steps:
            wanted = frozenset(step.output_map)  # Triton asks for all that is mapped, whatever the caller asked for
            taken = {name: given[tensor] for name, tensor in step.input_map.items() if tensor in given}
            outputs = self.run(step.model_name, taken, parameters or {}, wanted)
            given |= {step.output_map[name]: array for name, array in outputs.items() if name in wanted}
        return {name: given[name] for name in asked if name in given}

    def run(
        self, name: str, inputs: Arrays, parameters: Mapping[str, object], wanted: frozenset[str]
    ) -> dict[str, NDArray[Any]]:
        """Runs one step, and holds its inputs and outputs against its configuration."""
        config = self.configs[name]
        self.ran.append(name)
        required = {tensor.name for tensor in config.input if not tensor.optional}
        assert required <= set(inputs), f"{name} lacks {required - set(inputs)}"
        for tensor in config.input:
            if tensor.name in inputs:
                assert_fits(inputs[tensor.name], tensor, config)
        if config.backend == "python":
            outputs = self._run_python(name, config, inputs, parameters, wanted)
        else:
            outputs = self._run_graph(name, config, inputs)
        for tensor in config.output:
            if tensor.name in outputs:
                assert_fits(outputs[tensor.name], tensor, config)
        return outputs

    def _run_python(
        self,
        name: str,
        config: pb.ModelConfig,
        inputs: Arrays,
        parameters: Mapping[str, object],
        wanted: frozenset[str],
    ) -> dict[str, NDArray[Any]]:
        tensors = [Tensor(key, array) for key, array in inputs.items()]
        (response,) = self._step(name, config).execute([Request(tensors, parameters, wanted)])
        if response.has_error():
            text = response.error().message()
            raise error_from_text(text) or AssertionError(text)
        return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}

    def _step(self, name: str, config: pb.ModelConfig) -> Any:
        if name not in self.steps:
            folder = self.repository / name
            module = (folder / "1" / "model.py").read_text().split()[1]
            step = importlib.import_module(module).TritonPythonModel()
            data = json_format.MessageToJson(config, preserving_proto_field_name=True)
            step.initialize({"model_config": data, "model_repository": str(folder), "model_version": "1"})
            self.steps[name] = step
        return self.steps[name]

    def _run_graph(self, name: str, config: pb.ModelConfig, inputs: Arrays) -> dict[str, NDArray[Any]]:
        file = self.repository / name / "1" / config.default_model_filename
        assert file.is_file()
        if config.platform == "tensorrt_plan":
            file, profiles = self.graphs[name]
            shapes = {key: array.shape for key, array in inputs.items()}
            chosen = [profiles[int(index)] for index in config.instance_group[0].profile]
            assert any(profile.holds(shapes) for profile in chosen), f"no profile of {name} takes {shapes}"
        if name not in self.steps:
            self.steps[name] = self.session(file)
        found: dict[str, NDArray[Any]] = dict(self.steps[name](inputs))
        return found

    def _call(
        self, *, model_name: str, requested_output_names: list[str], inputs: list[Tensor], preferred_memory: object
    ) -> Any:
        given = {tensor.name(): tensor.as_numpy() for tensor in inputs}
        outputs = self.run(model_name, given, {}, frozenset(requested_output_names))
        response = Response([Tensor(name, outputs[name]) for name in requested_output_names])
        return SimpleNamespace(exec=lambda: response)


def assert_fits(array: NDArray[Any], tensor: Any, config: pb.ModelConfig) -> None:
    """Whether Triton would let a tensor pass."""
    where = f"{tensor.name} of {config.name}"
    assert array.dtype == DTYPES[tensor.data_type], where
    shape = array.shape
    if config.max_batch_size:
        assert 1 <= shape[0] <= config.max_batch_size, f"{where}: a batch of {shape[0]}"
        shape = shape[1:]
    assert len(shape) == len(tensor.dims), where
    assert all(size in (-1, found) for size, found in zip(tensor.dims, shape, strict=True)), where


def read_configs(repository: Path) -> dict[str, pb.ModelConfig]:
    """Every configuration, read by Triton's own protobuf."""
    return {
        path.parent.name: text_format.Parse(path.read_text(), pb.ModelConfig())
        for path in repository.glob("*/config.pbtxt")
    }


def open_session(graph: Path) -> Callable[[Arrays], Arrays]:
    """ONNX Runtime on the processor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def write_plans(bundle: Path, precision: Precision) -> None:
    """Stand-ins for plans, which only TensorRT can build: a few bytes, and beside them what would stand there."""
    manifest = Manifest.load(bundle)
    (bundle / "gpu").mkdir(exist_ok=True)
    for step in plan_steps(manifest.contract):
        path = bundle / plan_file(step, precision)
        path.write_bytes(b"no plan")
        graph = graph_file(step, precision, "gpu")
        largest = manifest.build.largest_batch
        Plan(
            schema_version=1,
            contract_digest=manifest.contract_digest,
            step=step,
            precision=precision if step == "encoder" else "fp32",
            graph=graph,
            graph_sha256=graph_sha256(bundle, graph),
            tensorrt=TENSORRT,
            gpu=CARD,
            profiles=plan_profiles(manifest.contract, step, largest_batch=largest, limits=Limits()),
            options=BuildOptions(),
            plan_sha256=hashlib.sha256(b"no plan").hexdigest(),
            plan_bytes=len(b"no plan"),
            build_s=0.0,
            num_attentions=0,
            num_fused_attentions=0,
        ).save(path)


def graphs_of_plans(bundle: Path, precision: Precision) -> dict[str, tuple[Path, tuple[Profile, ...]]]:
    """By the folder of a step in a repository: the graph of its plan, and the plan's profiles."""
    contract = Manifest.load(bundle).contract
    return {
        f"{contract.name}_{step}": (
            bundle / graph_file(step, precision, "gpu"),
            Plan.load(bundle / plan_file(step, precision)).profiles,
        )
        for step in plan_steps(contract)
    }


def forget_steps() -> None:
    """Has the next test import the steps anew, with its own stand-in."""
    for name in [name for name in sys.modules if name.startswith(("tubelet.server.steps.", "tubelet.server.metrics"))]:
        del sys.modules[name]
