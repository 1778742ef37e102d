from tubelet.server.steps.encoder import TritonPythonModel  # noqa: F401
