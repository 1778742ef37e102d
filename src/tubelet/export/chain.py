"""The graphs of a bundle, one after the other, as Triton runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tubelet.engines.base import Arrays, Engine, EngineSettings
from tubelet.engines.open import open_graph
from tubelet.export.gpu_engines import open_gpu_engines
from tubelet.export.samples import Sample
from tubelet.spec.engine import EngineName, Precision, graph_file, target_of
from tubelet.spec.manifest import Contract
from tubelet.spec.tensors import GRAPH_STEPS, Step, step_tensors

__all__ = ["Chain"]


@dataclass(frozen=True, slots=True)
class Chain:
    """A bundle's graphs, loaded."""

    contract: Contract
    engines: dict[Step, Engine]

    @classmethod
    def open(cls, bundle: Path, contract: Contract, engine: EngineName, precision: Precision) -> Chain:
        """Loads the graphs with the settings that the server has in its mode ``latency``.

        Raises:
            ContractError: a graph or a plan is missing, or was made for another contract.
            MachineError: ``missing``: this machine does not have the engine or the precision.
        """
        if target_of(engine) == "gpu":
            return cls(contract, open_gpu_engines(bundle, contract, engine, precision))
        engines = {}
        for step in _graph_steps(contract):
            graph = bundle / graph_file(step, precision)
            if step == "temporal":
                settings = EngineSettings.of_temporal(engine, graph)
            else:
                settings = EngineSettings.of_mode(engine, precision if step == "encoder" else "fp32", "latency")
            engines[step] = open_graph(graph, contract, settings)
        return cls(contract, engines)

    def units(self, sample: Sample) -> NDArray[np.uint8]:
        """UNITS uint8 ``[U*R, t, S, S, 3]``."""
        feeds: Arrays = {"FRAMES": sample.frames, "UNIT_FRAMES": sample.unit_frames, "CROPS": sample.crops}
        return self.engines["units"].run(feeds)["UNITS"]

    def answer(self, sample: Sample, units: NDArray[np.uint8], *, batch: int) -> dict[str, NDArray[Any]]:
        """VIEW_LOGITS, and what the step ``average`` makes of them; ``batch`` units in a run of the encoder."""
        tensors = {"CLIP_UNITS": sample.clip_units, "CROPS": sample.crops, "CLIP_POSITIONS": sample.clip_positions}
        encoder = self.engines["encoder"]
        encoded = [encoder.run({"UNITS": units[i : i + batch]}) for i in range(0, len(units), batch)]
        tensors |= {name: np.concatenate([run[name] for run in encoded]) for name in encoded[0]}
        for step, (inputs, _) in step_tensors(self.contract).items():
            if step in ("temporal", "average"):
                wanted = {spec.name: tensors.get(spec.source or spec.name) for spec in inputs}
                tensors |= self.engines[step].run({name: array for name, array in wanted.items() if array is not None})
        return tensors


def _graph_steps(contract: Contract) -> list[Step]:
    return [step for step in step_tensors(contract) if step in GRAPH_STEPS]
