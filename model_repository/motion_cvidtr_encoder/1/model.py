from tubelet.server.steps.encoder import TritonPythonModel
