from tubelet.server.steps.chunks import TritonPythonModel
