"""A bundle of the tiny model, exported once per session; tests that change it work on a copy."""

from pathlib import Path

import pytest
from tiny import write_recipe


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a verified bundle; its checkpoint lies beside the recipe, not in the bundle."""
    from tubelet.export.bundle import export_bundle  # brings torch, which most unit tests do without

    out = tmp_path_factory.mktemp("bundles") / "tiny"
    export_bundle(write_recipe(tmp_path_factory.mktemp("recipe")), checkpoint=None, out=out)
    return out
