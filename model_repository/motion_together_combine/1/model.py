from tubelet.server.steps.combine import TritonPythonModel
