"""Stands in for Triton's ONNX Runtime backend, which the wheel lacks: a step's graph, on the processor."""

import json
from pathlib import Path

import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """Inputs and outputs are the graph's own; it knows of no parameters, deadlines or errors."""

    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        (graph,) = (Path(args["model_repository"]) / args["model_version"]).glob("*.onnx")
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs = [given.name for given in self.session.get_inputs()]
        config = json.loads(args["model_config"])
        assert sorted(given["name"] for given in config["input"]) == sorted(self.inputs)
        self.outputs = [made["name"] for made in config["output"]]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        feeds = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        made = self.session.run(self.outputs, feeds)
        tensors = [triton.Tensor(name, array) for name, array in zip(self.outputs, made, strict=True)]
        return triton.InferenceResponse(tensors)
