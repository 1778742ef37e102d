from tubelet.server.steps.temporal import TritonPythonModel  # noqa: F401
