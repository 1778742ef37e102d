"""The monitoring of `server/monitoring`, as tests see it."""

import importlib.util
from pathlib import Path
from types import ModuleType

MONITORING = Path(__file__).parents[1] / "server" / "monitoring"


def load_check_names() -> ModuleType:
    """``server/monitoring/check_names.py``, which is a program beside the package."""
    spec = importlib.util.spec_from_file_location("check_names", MONITORING / "check_names.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
