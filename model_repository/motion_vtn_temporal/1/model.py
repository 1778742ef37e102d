from tubelet.server.steps.temporal import TritonPythonModel
