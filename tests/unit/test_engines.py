"""Both engines run the same files, from as many threads as they have streams, and say what they cannot do."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tiny import CHECKPOINT, write_recipe

from tubelet.engines import open as opening
from tubelet.engines.base import EngineSettings, num_cores, processor_name
from tubelet.engines.open import check_machine, open_engine, open_graph
from tubelet.engines.openvino import has_bf16
from tubelet.spec.engine import EngineName, Running, graph_file
from tubelet.spec.errors import ContractError, MachineError
from tubelet.spec.manifest import Manifest

ENGINES: tuple[EngineName, ...] = ("openvino", "onnxruntime")
NUM_THREADS = 4

needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16")


@pytest.fixture(params=ENGINES)
def name(request: pytest.FixtureRequest) -> EngineName:
    engine: EngineName = request.param
    return engine


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Path) -> Path:
    return tiny_bundle / "encoder.onnx"


def units(count: int, *, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 16, 16, 3), dtype=np.uint8)


def encode(graph: Path, settings: EngineSettings, given: NDArray[np.uint8]) -> NDArray[np.float32]:
    features: NDArray[np.float32] = open_engine(graph, settings).run({"UNITS": given})["FEATURES"]
    return features


def test_the_engines_agree(encoder: Path) -> None:
    one, other = (encode(encoder, EngineSettings.small(name), units(5)) for name in ENGINES)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_an_engine_says_what_the_exporter_wrote(encoder: Path, name: EngineName, tiny_bundle: Path) -> None:
    metadata = open_engine(encoder, EngineSettings.small(name)).metadata
    assert metadata["contract_digest"] == Manifest.load(tiny_bundle).contract_digest
    assert metadata["step"] == "encoder"


def test_what_is_not_contiguous_and_what_is_not_wanted_may_be_given(encoder: Path, name: EngineName) -> None:
    engine, given = open_engine(encoder, EngineSettings.small(name)), units(6)
    found = engine.run({"UNITS": given[::2], "SOMETHING": np.zeros(3)})["FEATURES"]
    np.testing.assert_array_equal(found, engine.run({"UNITS": given[::2].copy()})["FEATURES"])


def test_an_answer_stays_what_it_was(encoder: Path, name: EngineName) -> None:
    engine = open_engine(encoder, EngineSettings.small(name))
    first = engine.run({"UNITS": units(3)})["FEATURES"]
    kept = first.copy()
    engine.run({"UNITS": units(3, seed=1)})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("streams", [1, 2, NUM_THREADS])
def test_threads_do_not_disturb_each_other(encoder: Path, name: EngineName, streams: int) -> None:
    settings = EngineSettings(engine=name, precision="fp32", threads=NUM_THREADS, streams=streams)
    engine = open_engine(encoder, settings)
    given = [units(1 + seed % 5, seed=seed) for seed in range(64)]
    alone = [engine.run({"UNITS": each})["FEATURES"] for each in given]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        together = list(pool.map(lambda each: engine.run({"UNITS": each})["FEATURES"], given))
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_one_setting_decides_threads_and_streams(name: EngineName) -> None:
    latency, throughput = (EngineSettings.of_mode(name, "fp32", mode) for mode in ("latency", "throughput"))
    assert (latency.threads, latency.streams) == (num_cores(), 1)
    assert (throughput.threads, throughput.streams) == (num_cores(), num_cores())


@needs_bf16
def test_bf16_is_used_where_it_is_wanted_and_nowhere_else(encoder: Path) -> None:
    exact, rounded = (
        encode(encoder, EngineSettings.of_mode("openvino", precision, "latency"), units(5))
        for precision in ("fp32", "bf16")
    )
    reference = encode(encoder, EngineSettings.small("onnxruntime"), units(5))
    scale = np.abs(reference).max()
    assert np.abs(exact - reference).max() < 1e-5 * scale
    assert 1e-4 * scale < np.abs(rounded - reference).max() < 3e-2 * scale


def test_a_processor_without_bf16_is_told_apart(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "has_bf16", lambda: False)
    with pytest.raises(MachineError, match=r"this processor has no bf16 .*--precision") as caught:
        open_engine(encoder, EngineSettings.of_mode("openvino", "bf16", "latency"))
    assert caught.value.code == "missing"
    check_machine("openvino", "int8")


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("199999 100000", 1),
        ("max 100000", len(os.sched_getaffinity(0))),
        ("6400000 100000", len(os.sched_getaffinity(0))),
        ("", len(os.sched_getaffinity(0))),
    ],
)
def test_threads_keep_within_a_containers_share_of_time(tmp_path: Path, cpu_max: str, expected: int) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(cpu_max)
    assert num_cores(quota) == expected
    assert num_cores(tmp_path / "nowhere") == len(os.sched_getaffinity(0))


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, name: EngineName) -> None:
    def fail() -> object:
        raise ImportError("no such library")

    monkeypatch.setitem(opening._PACKAGES, name, fail)
    with pytest.raises(MachineError, match=rf"{name} cannot be loaded \(no such library\); pip install"):
        check_machine(name, "fp32")


def test_onnx_runtime_has_no_bf16_anywhere() -> None:
    with pytest.raises(ValueError, match="onnxruntime has fp32, int8, not bf16"):
        Running(engine="onnxruntime", precision="bf16", mode="latency")


@pytest.mark.parametrize("spoil", ["empty", "cut", "text"])
def test_a_file_that_is_no_graph_is_named_without_its_folder(
    tmp_path: Path, encoder: Path, name: EngineName, spoil: str
) -> None:
    graph = tmp_path / "encoder.onnx"
    data = encoder.read_bytes()
    graph.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "text": b"no graph\n" * 40}[spoil])
    with pytest.raises(ContractError, match=rf"{name} cannot load encoder\.onnx; export the bundle again") as caught:
        open_engine(graph, EngineSettings.small(name))
    assert str(tmp_path) not in str(caught.value)


def test_a_graph_of_another_contract_is_refused(tmp_path: Path, tiny_bundle: Path, name: EngineName) -> None:
    contract = Manifest.load(tiny_bundle).contract
    settings = EngineSettings.small(name)
    shutil.copy(tiny_bundle / "encoder.onnx", tmp_path)
    open_graph(tmp_path / "encoder.onnx", contract, settings)
    model = onnx.load(tmp_path / "encoder.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "encoder.onnx")
    with pytest.raises(ContractError, match=r"encoder\.onnx was exported for None"):
        open_graph(tmp_path / "encoder.onnx", contract, settings)
    with pytest.raises(ContractError, match=r"nothing\.onnx is not there"):
        open_graph(tmp_path / "nothing.onnx", contract, settings)


def test_only_the_encoder_has_a_graph_for_int8() -> None:
    assert [graph_file(step, "int8") for step in ("encoder", "temporal")] == ["encoder.int8.onnx", "temporal.onnx"]
    assert graph_file("encoder", "bf16") == graph_file("encoder") == "encoder.onnx"


def test_the_processor_has_a_name() -> None:
    assert processor_name().strip()


WATCHED = """
import sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        print("SENT", event, arguments, flush=True)

sys.addaudithook(watch)
from tubelet.cli import main
main(sys.argv[1:])
"""


def test_no_command_sends_anything_or_keeps_a_number_at_home(tmp_path: Path, make_video: Callable[..., bytes]) -> None:
    """In processes of their own, without the marks of a test or of a build machine, by which the makers know them."""
    home, videos, bundle = tmp_path / "home", tmp_path / "videos", tmp_path / "bundle"
    home.mkdir()
    videos.mkdir()
    (videos / "a.mp4").write_bytes(make_video(20, size=(32, 24)))
    recipe = write_recipe(tmp_path)
    for command in (
        ["export", recipe, "--out", bundle],
        ["verify", bundle, "--checkpoint", CHECKPOINT],
        ["quantise", bundle, "--videos", videos],
        ["doctor"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, *map(str, command)],
            capture_output=True,
            text=True,
            env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        )
        assert "SENT" not in done.stdout
        assert done.returncode == 0 or command == ["doctor"], done.stderr
        kept = {path.name.lower() for path in home.rglob("*")}
        assert not kept & {"intel", "openvino_ga_cid", ".onnxruntime", "deviceid"}
