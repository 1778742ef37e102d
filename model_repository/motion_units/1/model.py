from tubelet.server.steps.units import TritonPythonModel  # noqa: F401
