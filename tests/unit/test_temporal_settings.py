"""How the temporal stage is run: by the size of its graph and of the weights beside it, whoever opens it."""

from pathlib import Path

import pytest

from tubelet.engines.base import SMALL_GRAPH_BYTES, EngineSettings
from tubelet.export.chain import Chain
from tubelet.spec.manifest import Manifest

LATENCY = EngineSettings.of_mode("onnxruntime", "fp32", "latency")


@pytest.mark.parametrize(
    ("graph_bytes", "data_bytes", "is_small"),
    [(SMALL_GRAPH_BYTES - 1, 0, True), (SMALL_GRAPH_BYTES, 0, False), (10, SMALL_GRAPH_BYTES - 10, False)],
)
def test_a_small_graph_has_one_thread(tmp_path: Path, graph_bytes: int, data_bytes: int, is_small: bool) -> None:
    graph = tmp_path / "temporal.onnx"
    for path, size in ((graph, graph_bytes), (tmp_path / "temporal.onnx.data", data_bytes)):
        with path.open("wb") as file:
            file.truncate(size)
    wanted = EngineSettings.small("onnxruntime") if is_small else LATENCY
    assert EngineSettings.of_temporal("onnxruntime", graph) == wanted


def test_verify_opens_it_as_the_server_does(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def of_temporal(engine: str, graph: Path) -> EngineSettings:
        asked.append((engine, graph))
        return EngineSettings.small("onnxruntime")

    monkeypatch.setattr(EngineSettings, "of_temporal", staticmethod(of_temporal))
    Chain.open(tiny_bundle, Manifest.load(tiny_bundle).contract, "onnxruntime", "fp32")
    assert asked == [("onnxruntime", tiny_bundle / "temporal.onnx")]
