"""Triton's side of the null model: the same answer to every request, at once or after a delay."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """VIDEO -> a constant of every output that the configuration names; REPORT is the parameter ``report``."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._delay_s = float(parameters["delay_ms"]) / 1000
        self._tensors = [pb_utils.Tensor(output["name"], _constant(output, parameters)) for output in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        if self._delay_s:
            time.sleep(self._delay_s)
        return [pb_utils.InferenceResponse(self._tensors) for _ in requests]


def _constant(output: dict[str, Any], parameters: dict[str, str]) -> np.ndarray:
    if output["data_type"] == "TYPE_STRING":
        return np.array([parameters["report"].encode()], dtype=np.object_)
    return np.zeros([max(1, int(size)) for size in output["dims"]], dtype=np.float32)
