from tubelet.server.steps.sample import TritonPythonModel
