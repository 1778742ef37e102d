"""Serving, decoding and calling need no torch: shown in a fresh interpreter."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnxscript", "tubelet.models", "tubelet.export", "tubelet.demo")


@pytest.mark.parametrize(
    "module",
    [
        "tubelet.cli",
        "tubelet.spec.manifest",
        "tubelet.preprocess.prepare",
        "tubelet.engines.open",
        "tubelet.server.supervisor",
        "tubelet.averaging",
        "tubelet.server.doctor",
        "tubelet.clients",
    ],
)
def test_import_brings_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_command_line_starts_without_numpy() -> None:
    program = "import sys, tubelet.cli; print('numpy' in sys.modules, 'av' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_client_brings_no_decoder_and_no_tables() -> None:
    """Nor what only HTTP needs, before there is a URL of it."""
    heavy = ("torch", "onnx", "av", "cv2", "pandas", "pyarrow", "tritonclient.http", "gevent", "openvino", "rich")
    program = f"import sys, tubelet.clients; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
