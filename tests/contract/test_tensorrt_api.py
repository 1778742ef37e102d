"""Our calls of TensorRT against its real bindings: types by mypy, names one by one, and what happens without a driver.

The bindings are imported with libraries that do nothing (tests/typing/make_stubs.py), so nothing is built here.
"""

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [ROOT / "src" / "tubelet" / "export" / f"{name}.py" for name in ("tensorrt_build", "tensorrt_run")]

CLASS_OF = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "made": "IOptimizationProfile",
    "written": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "self._runtime": "Runtime",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
}
"""Which object of TensorRT's a name holds in our modules."""

PLANTED = """
import tensorrt as trt


def mistaken(config: trt.IBuilderConfig, engine: trt.ICudaEngine, parser: trt.OnnxParser) -> None:
    config.set_flag(trt.BuilderFlag.FP16)
    print(engine.device_memory_size)
    parser.supports_model(b"")


def careless(builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig) -> bytes:
    return bytes(builder.build_serialized_network(network, config))
"""
"""What TensorRT 11 has no more, and a None that nobody looked for."""

AS_TENSORRT = "import sys, tensorrt_bindings; sys.modules['tensorrt'] = tensorrt_bindings\n"
"""The package ``tensorrt`` is these bindings, and the libraries."""


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_stubs", ROOT / "tests" / "typing" / "make_stubs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stubs and libraries."""
    try:
        version("tensorrt-cu13-bindings")
    except PackageNotFoundError:
        pytest.skip("tensorrt-cu13-bindings is not installed; it comes with the extra dev, for x86-64")
    folder = tmp_path_factory.mktemp("typing")
    if maker.make_stubs(folder) is None:
        pytest.skip("no C compiler; apt-get install gcc")
    return folder


def run(maker: ModuleType, folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in which ``import tensorrt`` gives the real bindings."""
    return subprocess.run(
        [sys.executable, "-c", AS_TENSORRT + program, *arguments],
        env=maker.bindings_environment(folder / "lib"),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_our_calls_have_the_types_of_the_bindings(maker: ModuleType, made: Path) -> None:
    found = maker.check([*MODULES, MODULES[0].with_name("gpu_engines.py")], made)
    assert found.stdout.startswith("Success: no issues found in 3 source files"), found.stdout


def test_mistakes_are_found(maker: ModuleType, made: Path, tmp_path: Path) -> None:
    """The stubs are seen, and not a package of which nothing is known."""
    path = tmp_path / "planted.py"
    path.write_text(PLANTED)
    errors = [line.partition(": error: ")[2] for line in maker.check([path], made).stdout.splitlines()]
    assert [error for error in errors if error] == [
        '"type[BuilderFlag]" has no attribute "FP16"  [attr-defined]',
        '"ICudaEngine" has no attribute "device_memory_size"; maybe "device_memory_size_v2"?  [attr-defined]',
        '"OnnxParser" has no attribute "supports_model"; maybe "supports_model_v2"?  [attr-defined]',
        'Argument 1 to "bytes" has incompatible type "IHostMemory | None"; expected '
        '"Iterable[SupportsIndex] | SupportsIndex | SupportsBytes | Buffer"  [arg-type]',
    ]


def used_names() -> set[str]:
    """Every name of the API in our modules, as ``BuilderFlag.TF32`` or ``Builder.create_network``."""
    names = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                owner, text = ast.unparse(node.value), ast.unparse(node)
                if text.startswith("trt."):
                    names.add(text.removeprefix("trt."))
                elif owner in CLASS_OF:
                    names.add(f"{CLASS_OF[owner]}.{node.attr}")
    return names


def test_every_name_that_we_call_is_there(maker: ModuleType, made: Path) -> None:
    names = used_names()
    assert {"BuilderFlag.TF32", "Builder.build_serialized_network", "IExecutionContext.infer_shapes"} <= names
    assert {name.partition(".")[0] for name in names} > set(CLASS_OF.values())
    program = """
import json, operator, sys
import tensorrt

def is_there(name):
    try:
        operator.attrgetter(name)(tensorrt)
    except AttributeError:
        return False
    return True

print(json.dumps([name for name in json.loads(sys.argv[1]) if not is_there(name)]))
"""
    found = run(maker, made, program, json.dumps([*sorted(names), "BuilderFlag.FP16"]))
    assert json.loads(found.stdout) == ["BuilderFlag.FP16"], found.stderr


def test_the_log_and_the_monitor_are_taken_by_the_bindings(maker: ModuleType, made: Path) -> None:
    program = """
import tensorrt
from tubelet.export.tensorrt_build import Log, _Monitor, build_plan, tensorrt_version

log = Log()
log.log(tensorrt.ILogger.WARNING, "of no importance")
log.log(tensorrt.ILogger.ERROR, "first")
log.log(tensorrt.ILogger.INTERNAL_ERROR, "second\\n line")
monitor = _Monitor(print)
monitor.phase_start("phase", None, 8)
monitor.step_complete("phase", 1)
monitor.phase_finish("phase")
print(tensorrt_version(), log.last_words, isinstance(monitor, tensorrt.IProgressMonitor))
"""
    found = run(maker, made, program)
    expected = f"TensorRT: phase, 2 of 8\n{version('tensorrt-cu13-bindings')} first; second line True\n"
    assert found.stdout == expected, found.stderr


@pytest.mark.parametrize("command", [["engine", "--precision", "fp32"], ["engine", "--precision", "fp16"]])
def test_without_a_driver_the_command_says_so(
    maker: ModuleType,
    made: Path,
    motion_bundle: Path,
    tmp_path: Path,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Down to TensorRT's own constructor, which gives nothing here."""
    card = tmp_path / "nvidia-smi"
    card.write_text("#!/bin/sh\necho 'NVIDIA H200, 9.0, 615.61'\n")
    card.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    bundle = shutil.copytree(motion_bundle, tmp_path / "motion")
    program = "import sys\nfrom tubelet.cli import main\nmain(sys.argv[1:])\n"
    found = run(maker, made, program, command[0], str(bundle), *command[1:])
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert f"error: missing: TensorRT {version('tensorrt-cu13-bindings')} finds no GPU that it can use" in found.stderr


def test_without_a_driver_no_plan_is_loaded(maker: ModuleType, made: Path, tmp_path: Path) -> None:
    program = """
from pathlib import Path
from types import SimpleNamespace
from tubelet.export.tensorrt_run import PlanEngine
from tubelet.spec.errors import MachineError

try:
    PlanEngine(Path("absent.plan"), SimpleNamespace(contract_digest="sha256:1", profiles=()))
except MachineError as exc:
    print(exc)
"""
    found = run(maker, made, program)
    assert "finds no GPU that it can use" in found.stdout, found.stderr
