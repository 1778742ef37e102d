from tubelet.server.steps.sample import TritonPythonModel  # noqa: F401
