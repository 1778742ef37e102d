"""TensorRT's builder, through its Python API as of 11.2: an ONNX graph and shapes in, a plan out.

Networks of TensorRT 11 are strongly typed: every tensor has the type that the graph gives it, so a precision is the
graph's doing, and no option here. 10.16 does the same when it is told to (docs/adr/0019-tensorrt.md). Importing this
module takes TensorRT; everything that decides stands in `tubelet.export.tensorrt`, which does without.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsInt, TypeVar

import tensorrt as trt

from tubelet.spec.errors import ContractError, InternalError, MachineError
from tubelet.spec.plan import BuildOptions, CompatibleHardware, Profile

__all__ = [
    "BuiltPlan",
    "Log",
    "build_plan",
    "count_fused_attentions",
    "done",
    "needed",
    "no_driver",
    "tensorrt_version",
]

T = TypeVar("T")

_LEVELS: dict[CompatibleHardware, trt.HardwareCompatibilityLevel] = {
    "none": trt.HardwareCompatibilityLevel.NONE,
    "same-compute-capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
    "ampere-plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltPlan:
    """What came out of a build."""

    plan: bytes
    timing_cache: bytes
    """How long each kernel took that was tried; what was given, and more."""
    num_fused_attentions: int


def tensorrt_version() -> str:
    """As in ``11.2.1.2``."""
    return str(trt.__version__)


class Log(trt.ILogger):
    """Keeps what TensorRT complains of last: its functions say only that they failed."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)  # pybind11 wants this very form
        self._last: deque[str] = deque(maxlen=3)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, from any thread."""
        if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
            self._last.append(re.sub(r"\s+", " ", msg))

    @property
    def last_words(self) -> str:
        """The latest errors, on one line."""
        return "; ".join(self._last) or "TensorRT gives no reason"


def needed(made: T | None, what: str, log: Log) -> T:
    """What TensorRT has made.

    Raises:
        MachineError: ``missing``: it gave nothing.
    """
    if made is None:
        raise MachineError("missing", f"TensorRT {tensorrt_version()} cannot {what}: {log.last_words}")
    return made


def done(succeeded: bool, what: str, log: Log) -> None:
    """Makes sure that a call succeeded: most of TensorRT's say so, and raise nothing.

    Raises:
        MachineError: ``missing``: it did not.
    """
    needed(succeeded or None, what, log)


def build_plan(
    graph: Path,
    profiles: Sequence[Profile],
    options: BuildOptions,
    *,
    name: str,
    timing_cache: bytes,
    progress: Callable[[str], None],
) -> BuiltPlan:
    """Builds a plan for the GPU of this machine; takes minutes.

    Args:
        graph: the ONNX file; weights may lie beside it.
        profiles: shapes of all inputs.
        options: what the caller decides.
        name: of the network, which the plan keeps.
        timing_cache: what an earlier build gave; empty: none.
        progress: told what is being done, line by line.

    Raises:
        InternalError: ``internal``: TensorRT cannot read the graph.
        ContractError: the timing cache is of another GPU or TensorRT.
        MachineError: ``missing``: no usable driver, or no plan for this GPU.
    """
    log = Log()
    try:
        builder = trt.Builder(log)
    except TypeError as exc:  # pybind11's way to say that there is none
        raise no_driver(log) from exc
    network = needed(builder.create_network(_network_flags()), "make a network", log)
    network.name = name
    _parse(graph, network, log)
    config = needed(builder.create_builder_config(), "make a configuration", log)
    _configure(config, options)
    for profile in profiles:
        _add_profile(builder, config, profile, log)
    cache = needed(config.create_timing_cache(timing_cache), "read the timing cache", log)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise ContractError(
            "contract_mismatch", "the timing cache is of another GPU or TensorRT; name another file with --timing-cache"
        )
    monitor = _Monitor(progress)
    config.progress_monitor = monitor
    made = builder.build_serialized_network(network, config)
    if monitor.is_interrupted:
        raise KeyboardInterrupt
    plan = bytes(needed(made, f"build {graph.name}", log))
    written = needed(config.get_timing_cache(), "give its timing cache", log)
    fused = _fused_attentions(plan, log, has_runtime=options.compatible_versions)
    return BuiltPlan(plan=plan, timing_cache=bytes(written.serialize()), num_fused_attentions=fused)


def no_driver(log: Log) -> MachineError:
    """What to say when TensorRT cannot be made at all."""
    return MachineError(
        "missing",
        f"TensorRT {tensorrt_version()} finds no GPU that it can use ({log.last_words}); check that nvidia-smi shows "
        "one, and that its driver is of this CUDA version",
    )


def _network_flags() -> int:
    if trt.__version__.startswith("10."):
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return 0


def _parse(graph: Path, network: trt.INetworkDefinition, log: Log) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(graph)):
        return
    errors = [_shown(parser.get_error(i)) for i in range(parser.num_errors)]
    raise InternalError(
        "internal",
        f"TensorRT {tensorrt_version()} cannot read {graph.name}; report this: {'; '.join(errors) or log.last_words}",
    )


def _shown(error: trt.ParserError) -> str:
    """What the parser says of a node: name, operator, kind of error, description."""
    return f"{error.node_name() or error.node()} ({error.node_operator()}): {error.code()}, {error.desc()}"


def _configure(config: trt.IBuilderConfig, options: BuildOptions) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_gib << 30)
    config.builder_optimization_level = options.builder_level
    # Without it the plan does not say which kernels it has, and nobody can tell whether attention is one.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.hardware_compatibility_level = _LEVELS[options.compatible_hardware]
    # On by default: it would multiply with ten bits of mantissa where the graph says fp32.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.compatible_versions:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)


def _add_profile(builder: trt.Builder, config: trt.IBuilderConfig, profile: Profile, log: Log) -> None:
    made = needed(builder.create_optimization_profile(), "make a profile", log)
    for name, shapes in profile.inputs.items():
        made.set_shape(name, shapes.least, shapes.opt, shapes.most)
    done(config.add_optimization_profile(made) >= 0, f"take the profile {profile.name!r}", log)


_LONG_PHASE = 8
"""Steps of a phase of which something is told."""


class _Monitor(trt.IProgressMonitor):
    """Tells how far the build is, and stops it when the user does.

    An exception must not leave these methods: TensorRT calls them, and would end with the process.
    """

    def __init__(self, progress: Callable[[str], None]) -> None:
        trt.IProgressMonitor.__init__(self)
        self._progress = progress
        self._num_steps: dict[str, int] = {}
        self.is_interrupted = False

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: SupportsInt) -> None:
        """A phase begins; phases lie within each other."""
        self._num_steps[phase_name] = int(num_steps)

    def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
        """Step ``step`` of a phase is done; whether to go on."""
        try:
            num_steps, done_steps = self._num_steps.get(phase_name, 0), int(step) + 1
            quarters = [num_steps * quarter // 4 for quarter in (1, 2, 3, 4)]
            if num_steps >= _LONG_PHASE and done_steps in quarters:
                self._progress(f"TensorRT: {phase_name.strip()}, {done_steps} of {num_steps}")
        except KeyboardInterrupt:
            self.is_interrupted = True
        return not self.is_interrupted

    def phase_finish(self, phase_name: str) -> None:
        """A phase is over, or broken off."""
        self._num_steps.pop(phase_name, None)


def _fused_attentions(plan: bytes, log: Log, *, has_runtime: bool) -> int:
    """Layers of the plan that are a whole attention, as the engine inspector names them."""
    runtime = trt.Runtime(log)
    runtime.engine_host_code_allowed = has_runtime  # else a plan that brings a runtime along is not loaded
    engine = needed(runtime.deserialize_cuda_engine(plan), "load the plan that it has built", log)
    inspector = needed(engine.create_engine_inspector(), "inspect the plan", log)
    layers = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))["Layers"]
    return count_fused_attentions(layers)


def count_fused_attentions(layers: Sequence[str | dict[str, object]]) -> int:
    """How many of the inspector's layers have ``mha`` in their name or their kernel's; each counts once.

    A plan of several profiles lists its layers for each, those after the first under names with ``[profile N]``.
    """
    texts = [layer if isinstance(layer, str) else f"{layer.get('Name')} {layer.get('TacticName')}" for layer in layers]
    return sum("mha" in text.lower() and "[profile" not in text for text in texts)
