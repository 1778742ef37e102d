from tubelet.server.steps.units import TritonPythonModel
