"""A `tensorrt` that builds nothing: every name that our builder calls, told beforehand how to answer.

Whether these are the names of the real one is for mypy and tests/contract/test_tensorrt_api.py to say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from types import ModuleType
from typing import Any

import tubelet.export

Shape = tuple[int, ...]


@dataclass
class Script:
    """What the builder is to answer, and what it was asked for."""

    version: str = "11.2.1.2"
    has_driver: bool = True
    parser_errors: Sequence[dict[str, str]] = ()
    takes_profiles: bool = True
    takes_cache: bool = True
    plan: bytes | None = b"a plan"
    complaint: str = ""
    interrupted: bool = False
    layers: Sequence[str | dict[str, str]] = ()

    parsed: str = ""
    network_flags: int = -1
    network_name: str = ""
    cache: bytes = b""
    profiles: list[dict[str, tuple[Shape, Shape, Shape]]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    set_flags: set[str] = field(default_factory=set)
    cleared_flags: set[str] = field(default_factory=set)
    builds: int = 0


class Severity(Enum):
    INTERNAL_ERROR = auto()
    ERROR = auto()
    WARNING = auto()


def _enum(name: str, *members: str) -> Any:
    return Enum(name, {member: member for member in members})


@contextmanager
def installed(script: Script) -> Iterator[Script]:
    """Has ``import tensorrt`` find this one; our modules that import it are imported anew, and forgotten again."""
    before = sys.modules.get("tensorrt")
    _forget()
    sys.modules["tensorrt"] = _module(script)
    try:
        yield script
    finally:
        _forget()
        if before is not None:
            sys.modules["tensorrt"] = before


def _forget() -> None:
    sys.modules.pop("tensorrt", None)
    for name in ("tensorrt_build", "tensorrt_run"):
        sys.modules.pop(f"tubelet.export.{name}", None)
        vars(tubelet.export).pop(name, None)


def _module(script: Script) -> ModuleType:
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = script.version
    trt.HardwareCompatibilityLevel = _enum("Level", "NONE", "SAME_COMPUTE_CAPABILITY", "AMPERE_PLUS")
    trt.MemoryPoolType = _enum("Pool", "WORKSPACE")
    trt.ProfilingVerbosity = _enum("Verbosity", "DETAILED")
    trt.BuilderFlag = _enum("Flag", "TF32", "VERSION_COMPATIBLE", "REFIT")
    trt.LayerInformationFormat = _enum("Format", "JSON")
    trt.NetworkDefinitionCreationFlag = type("Flags", (), {"STRONGLY_TYPED": 1})

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING

    ILogger.Severity = Severity  # type: ignore[attr-defined]
    trt.ILogger = ILogger
    trt.IProgressMonitor = type("IProgressMonitor", (), {})
    trt.ParserError = trt.INetworkDefinition = trt.IBuilderConfig = object
    trt.OnnxParser = lambda network, log: _Parser(script)
    trt.Builder = lambda log: _builder(script, log)
    trt.Runtime = lambda log: _Runtime(script)
    return trt


def _builder(script: Script, log: Any) -> _Builder:
    if not script.has_driver:
        raise TypeError("pybind11::init(): factory function returned nullptr")
    return _Builder(script, log)


class _Network:
    def __init__(self, script: Script) -> None:
        self._script = script

    @property
    def name(self) -> str:
        return self._script.network_name

    @name.setter
    def name(self, value: str) -> None:
        self._script.network_name = value


class _Builder:
    def __init__(self, script: Script, log: Any) -> None:
        self.script, self.log = script, log

    def create_network(self, flags: int) -> _Network:
        self.script.network_flags = flags
        return _Network(self.script)

    def create_builder_config(self) -> _Config:
        return _Config(self.script)

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        self.script.builds += 1
        monitor = config.progress_monitor
        monitor.phase_start("Building Engine", None, 16)
        for step in range(16):
            if not monitor.step_complete("Building Engine", step):
                break
        monitor.phase_finish("Building Engine")
        self.log.log(Severity.WARNING, "of no importance")
        if self.script.complaint:
            self.log.log(Severity.ERROR, self.script.complaint)
        return self.script.plan


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Shape, Shape, Shape]] = {}

    def set_shape(self, name: str, least: Shape, opt: Shape, most: Shape) -> None:
        self.shapes[name] = least, opt, most


class _Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"+"


class _Config:
    progress_monitor: Any

    def __init__(self, script: Script) -> None:
        object.__setattr__(self, "script", script)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        self.script.config[name] = value

    script: Script

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.script.config[pool.name] = size

    def set_flag(self, flag: Any) -> None:
        self.script.set_flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.script.cleared_flags.add(flag.name)

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.script.profiles.append(profile.shapes)
        return len(self.script.profiles) - 1 if self.script.takes_profiles else -1

    def create_timing_cache(self, content: bytes) -> _Cache:
        self.script.cache = content
        return _Cache(content)

    def set_timing_cache(self, cache: _Cache, *, ignore_mismatch: bool) -> bool:
        return self.script.takes_cache or ignore_mismatch

    def get_timing_cache(self) -> _Cache:
        return _Cache(self.script.cache)


class _Parser:
    def __init__(self, script: Script) -> None:
        self.script = script

    def parse_from_file(self, path: str) -> bool:
        assert Path(path).is_file()
        self.script.parsed = path
        return not self.script.parser_errors

    @property
    def num_errors(self) -> int:
        return len(self.script.parser_errors)

    def get_error(self, index: int) -> Any:
        said = {"node": "0", **self.script.parser_errors[index]}
        return type("Error", (), {name: (lambda self, text=text: text) for name, text in said.items()})()


class _Runtime:
    engine_host_code_allowed = False

    def __init__(self, script: Script) -> None:
        self.script = script

    def deserialize_cuda_engine(self, plan: bytes) -> _Runtime | None:
        assert plan == self.script.plan
        has_runtime = "VERSION_COMPATIBLE" in self.script.set_flags
        return self if self.engine_host_code_allowed or not has_runtime else None

    def create_engine_inspector(self) -> _Runtime:
        return self

    def get_engine_information(self, form: Any) -> str:
        return json.dumps({"Layers": list(self.script.layers)})
