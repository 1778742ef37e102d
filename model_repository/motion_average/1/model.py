from tubelet.server.steps.average import TritonPythonModel  # noqa: F401
