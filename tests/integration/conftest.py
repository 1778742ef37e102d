"""A real tritonserver, started once for most tests by the command that users type."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_server import Serving

from tubelet.clients import VideoClassifier
from tubelet.demo.clips import write_clips
from tubelet.export.repository import write_repository
from tubelet.spec.limits import Limits


@pytest.fixture(scope="session")
def make_repository(motion_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def make(**limits: Any) -> Path:
        repository = tmp_path_factory.mktemp("repository")
        write_repository([motion_bundle], target="cpu", out=repository, limits=Limits(**limits))
        return repository

    return make


@pytest.fixture(scope="session")
def repository(make_repository: Callable[..., Path]) -> Path:
    return make_repository()


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Serving]:
    with Serving(repository) as serving:
        yield serving


@pytest.fixture(scope="session")
def classifier(server: Serving) -> Iterator[VideoClassifier]:
    with server.classifier() as classifier:
        yield classifier


@pytest.fixture
def serve(repository: Path) -> Iterator[Callable[..., Serving]]:
    """Starts servers of a test's own, and ends them with it."""
    started: list[Serving] = []

    def start(where: Path = repository, *arguments: str) -> Serving:
        started.append(Serving(where, arguments))
        return started[-1]

    yield start
    for serving in started:
        serving.discard()


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of generated evaluation clips with their labels.csv."""
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, split="evaluation", seed=5, count=16, workers=2)
    return folder
