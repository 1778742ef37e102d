from tubelet.server.steps.average import TritonPythonModel
