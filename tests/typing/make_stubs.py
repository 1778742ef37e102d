"""Types of TensorRT's Python API, read out of its own bindings, and what mypy says of our modules by them.

    python tests/typing/make_stubs.py      makes them in build/typing, and checks the modules that call TensorRT

The wheel of the bindings (``tensorrt-cu13-bindings``) has no type stubs, but pybind11 has left every signature in the
binary. To import it takes TensorRT's libraries, of which it looks up nine functions: three small libraries that hold
these, and do nothing, are enough (docs/adr/0019-tensorrt.md). What comes out is NVIDIA's, and is never committed.
"""

import ast
import builtins
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "typing"
MODULES = ("tensorrt_build", "tensorrt_run", "gpu_engines")
"""Of `tubelet.export`: those that call TensorRT."""

LIBRARIES = {
    "nvinfer": """
        void *createInferBuilder_INTERNAL(void *l, int v) { return 0; }
        void *createInferRefitter_INTERNAL(void *e, void *l, int v) { return 0; }
        void *createInferRuntime_INTERNAL(void *l, int v) { return 0; }
        void *getBuilderPluginRegistry(int c) { return 0; }
        void *getPluginRegistry(void) { return 0; }""",
    "nvonnxparser": """
        void *createNvOnnxParser_INTERNAL(void *n, void *l, int v) { return 0; }
        void *createNvOnnxParserRefitter_INTERNAL(void *r, void *l, int v) { return 0; }
        int getNvOnnxParserVersion(void) { return 0; }""",
    "nvinfer_plugin": "int initLibNvInferPlugins(void *l, const char *n) { return 1; }",
}
"""Every function that the bindings look up."""

RENAMED = {"IParserError": "ParserError", "IBuilder": "Builder"}
"""Classes that Python knows under another name than C++; C++ names that Python does not know become Any."""

MAYBE_NONE = {
    ("Builder", "build_serialized_network"),
    ("Runtime", "deserialize_cuda_engine"),
    ("ICudaEngine", "create_execution_context"),
    ("ICudaEngine", "create_engine_inspector"),
    ("IBuilderConfig", "create_timing_cache"),
    ("IBuilderConfig", "get_timing_cache"),
}
"""What gives None where it fails: pybind11 notes a C++ pointer as its class."""

ADDED = {
    "Dims": "def __iter__(self) -> collections.abc.Iterator[int]: ...",
    "IHostMemory": "def __buffer__(self, flags: int, /) -> memoryview: ...",
}
"""What Python finds by other ways than methods."""


class _Mended(ast.NodeTransformer):
    """Stubs as pybind11-stubgen writes them, as mypy can read them."""

    def __init__(self, known: set[str]) -> None:
        self.known = known
        self.owner = ""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.owner, outer = node.name, self.owner
        nested = {inner.name for inner in node.body if isinstance(inner, ast.ClassDef)}
        self.known |= nested
        node.body = [self.visit(item) for item in _without_docstring(node.body)]
        self.owner = outer
        if node.name in ADDED:
            node.body += ast.parse(ADDED[node.name]).body
        node.body = node.body or [ast.Pass()]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.body = [ast.Expr(ast.Constant(...))]
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if argument.annotation is not None:
                argument.annotation = self.annotation(argument.annotation)
                if ast.unparse(argument.annotation) == "Dims":
                    argument.annotation = _expression("Dims | collections.abc.Sequence[builtins.int]")
        arguments.defaults = [ast.Constant(...) for _ in arguments.defaults]
        if node.returns is not None:
            node.returns = self.annotation(node.returns)
            if (self.owner, node.name) in MAYBE_NONE:
                node.returns = _expression(f"{ast.unparse(node.returns)} | None")
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.annotation = self.annotation(node.annotation)
        node.value = None
        return node

    def annotation(self, node: ast.expr) -> ast.expr:
        """Unknown names become Any; the module has a constant called ``bool``."""
        for name in [n for n in ast.walk(node) if isinstance(n, ast.Name)]:
            name.id = RENAMED.get(name.id, name.id)
            if name.id == "bool":
                name.id = "builtins.bool"
            elif name.id not in self.known and not hasattr(builtins, name.id):
                name.id = "typing.Any"
        return node


def make_libraries(folder: Path) -> bool:
    """Compiles the libraries into a folder; False where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    major = version("tensorrt-cu13-bindings").partition(".")[0]
    for name, source in LIBRARIES.items():
        library = folder / f"lib{name}.so.{major}"
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{library.name}", "-o", str(library)]
        subprocess.run(command, input=source, text=True, check=True)
    return True


def bindings_environment(libraries: Path) -> dict[str, str]:
    """In which ``import tensorrt_bindings`` works."""
    return {**os.environ, "LD_LIBRARY_PATH": str(libraries)}


def make_stubs(folder: Path) -> Path | None:
    """Writes ``tensorrt/__init__.pyi`` into a folder; None where there is no compiler."""
    if not make_libraries(folder / "lib"):
        return None
    command = [str(Path(sys.executable).with_name("pybind11-stubgen")), "tensorrt_bindings.tensorrt"]
    command += ["--output-dir", str(folder)]
    command += ["--print-invalid-expressions-as-is", "--enum-class-locations", ".*:tensorrt_bindings.tensorrt"]
    environment = bindings_environment(folder / "lib")
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    written = (folder / "tensorrt_bindings" / "tensorrt.pyi").read_text(encoding="utf-8")
    stubs = folder / "tensorrt" / "__init__.pyi"
    stubs.parent.mkdir(exist_ok=True)
    stubs.write_text(mend(written), encoding="utf-8")
    shutil.rmtree(folder / "tensorrt_bindings")
    return stubs


def mend(text: str) -> str:
    """Stubs that mypy reads, of what pybind11-stubgen has written."""
    text = re.sub(r"\bnv\w+::(?:\w+::)*(\w+)", r"\1", text)  # C++ names
    text = re.sub(r"\bdetail::[\w:<>]+[\w>]", "object", text)
    text = re.sub(r"\bin: ", "in_: ", text)
    text = re.sub(r"(channel_axis: typing\.SupportsInt)\)", r"\1 = ...)", text)
    module = ast.parse(text)
    known = {node.name for node in module.body if isinstance(node, ast.ClassDef)} | {"collections", "numpy", "typing"}
    mended = _Mended(known | {"typing_extensions", "builtins"}).visit(module)
    mended.body[1:1] = ast.parse("import builtins\n__version__: str").body
    # Its classes override each other in ways that mypy minds, and that do not concern us.
    return f"# mypy: ignore-errors\n{ast.unparse(mended)}\n"


def check(paths: list[Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """What mypy says of modules, with the stubs of ``folder``."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--follow-imports=silent",
        f"--cache-dir={FOLDER / 'cache'}",
        *map(str, paths),
    ]
    environment = {**os.environ, "MYPYPATH": str(folder)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def main() -> int:
    if importlib.util.find_spec("tensorrt_bindings") is None:
        sys.stdout.write("no tensorrt-cu13-bindings (x86-64 only): TensorRT's types are not checked\n")
        return 0
    if make_stubs(FOLDER) is None:
        sys.stdout.write("no C compiler: TensorRT's types are not checked; apt-get install gcc\n")
        return 0
    found = check([ROOT / "src" / "tubelet" / "export" / f"{name}.py" for name in MODULES], FOLDER)
    sys.stdout.write(f"TensorRT {version('tensorrt-cu13-bindings')}: {found.stdout}{found.stderr}")
    return found.returncode


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    return [item for item in body if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))]


if __name__ == "__main__":
    sys.exit(main())
