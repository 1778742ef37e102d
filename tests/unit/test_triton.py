"""Finding a tritonserver, and how it is started."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tubelet.server.triton import Pools, Ports, Triton, find_tritonserver, server_arguments
from tubelet.spec.errors import MachineError


def test_the_one_that_the_environment_names_comes_first(tmp_path: Path) -> None:
    binary = tmp_path / "tritonserver"
    binary.touch(mode=0o755)
    found = find_tritonserver({"TRITONSERVER": str(binary)})
    assert found == Triton(binary=binary, is_wheel=False)
    assert found.assemble_backends(tmp_path) is None


def test_a_named_one_that_cannot_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot be executed"):
        find_tritonserver({"TRITONSERVER": str(tmp_path / "absent")})


def test_the_wheels_server_is_complete(tmp_path: Path) -> None:
    found = find_tritonserver({})
    assert found.is_wheel
    assert os.access(found.binary, os.X_OK)
    backends = found.assemble_backends(tmp_path)
    assert backends is not None
    assert {path.name for path in (backends / "python").iterdir()} == {
        "libtriton_python.so",
        "triton_python_backend_stub",
        "triton_python_backend_utils.py",
    }
    environment = found.environment({"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/opt/lib"})
    assert environment["PATH"].split(":") == [str(Path(sys.executable).parent), "/usr/bin"]
    assert environment["LD_LIBRARY_PATH"].endswith(":/opt/lib")
    stub = backends / "python" / "triton_python_backend_stub"
    listing = subprocess.run(["ldd", stub], env=environment, capture_output=True, text=True, check=True).stdout
    assert "not found" not in listing


def test_numpy_2_is_refused_because_its_tensors_arrive_empty(tmp_path: Path) -> None:
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text('__version__ = "2.1.0"\n')
    program = (
        "from tubelet.server.triton import find_tritonserver\n"
        "from tubelet.spec.errors import MachineError\n"
        "try:\n    find_tritonserver({})\n"
        "except MachineError as exc:\n    print(exc)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "found 2.1.0; pip install 'numpy<2'" in done.stdout


def arguments_of(repository: Path, *, is_wheel: bool = True, **options: Any) -> list[str]:
    """What a tritonserver is started with."""
    usual: dict[str, Any] = {
        "backends": None,
        "models": [],
        "address": "127.0.0.1",
        "ports": Ports(1, 2, 3),
        "admin_key": "secret",
        "shm_prefix": "tubelet_7_",
        "shm_bytes": 4096,
    }
    triton = Triton(binary=Path("tritonserver"), is_wheel=is_wheel)
    return server_arguments(triton, repository=repository, **{**usual, **options})


@pytest.mark.parametrize("allow", [False, True])
def test_administration_is_locked_and_nothing_faces_a_network(tmp_path: Path, allow: bool) -> None:
    arguments = arguments_of(tmp_path, models=["motion", "motion_frames"], allow_shared_memory=allow)
    locked = "model-repository,trace,logging" if allow else "model-repository,shared-memory,trace,logging"
    restricted = f"{locked}:tubelet-key=secret"
    assert f"--http-restricted-api={restricted}" in arguments
    assert f"--grpc-restricted-protocol={restricted}" in arguments
    assert {argument for argument in arguments if "-address=" in argument} == {
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
    }
    assert not any("cache" in argument for argument in arguments)


@pytest.mark.parametrize("is_wheel", [True, False])
def test_who_calls_triton_directly_connects_anew_now_and_then(is_wheel: bool, tmp_path: Path) -> None:
    arguments = arguments_of(tmp_path, is_wheel=is_wheel)
    assert ("--grpc-max-connection-age=60000" in arguments) is not is_wheel


def test_a_card_gets_its_pools(tmp_path: Path) -> None:
    def arguments(pools: Pools | None, *, host_code: bool = False) -> list[str]:
        return arguments_of(
            tmp_path, is_wheel=False, models=["motion"], address="0.0.0.0", pools=pools, host_code=host_code
        )

    without, given = arguments(None), arguments(Pools(device_bytes=10, pinned_bytes=20))
    assert set(given) - set(without) == {"--cuda-memory-pool-byte-size=0:10", "--pinned-memory-pool-byte-size=20"}
    assert not any("-pool-" in argument for argument in without)
    # Else TensorRT loads no plan that brings a runtime along (`tubelet engine --compatible-versions`).
    allowing = arguments(None, host_code=True)
    assert set(allowing) - set(without) == {"--backend-config=tensorrt,version-compatible=true"}
    assert set(without) <= set(allowing)
