"""The repository in git is what `tubelet repository` writes for the demo model."""

import subprocess
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tubelet.export.repository import write_repository
from tubelet.spec.errors import ContractError, InvalidRequestError
from tubelet.spec.limits import Limits
from tubelet.spec.manifest import Manifest
from tubelet.spec.repository import RepositoryIndex
from tubelet.spec.tensors import step_tensors

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def repository(motion_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    write_repository([motion_bundle], target="cpu", out=folder, limits=Limits())
    return folder


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout")
def test_git_holds_what_is_generated(repository: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "model_repository"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    committed = {path.removeprefix("model_repository/") for path in listed} - {"README.md"}
    generated = {
        str(path.relative_to(repository))
        for path in repository.rglob("*")
        if path.is_file() and path.suffix != ".onnx" and path.parent.name != "warmup"
    }
    assert committed == generated
    for name in sorted(generated):
        written = (ROOT / "model_repository" / name).read_text()
        assert written == (repository / name).read_text(), f"{name} is stale: run make repository"


def test_configurations_parse_and_fit_together(repository: Path, motion_bundle: Path) -> None:
    contract = Manifest.load(motion_bundle).contract
    configs = {
        path.parent.name: text_format.Parse(path.read_text(), pb.ModelConfig())
        for path in repository.glob("*/config.pbtxt")
    }
    for name, config in configs.items():
        assert config.name == name
        assert config.parameters["contract_digest"].string_value == contract.digest
    steps = configs["motion"].ensemble_scheduling.step
    given = {"VIDEO"}
    for step in steps:
        config = configs[step.model_name]
        required = {tensor.name for tensor in config.input if not tensor.optional}
        assert required <= set(step.input_map)
        assert set(step.input_map.values()) <= given
        assert set(step.output_map) == {tensor.name for tensor in config.output}
        given |= set(step.output_map.values())
    assert {spec.name for spec in step_tensors(contract)["ensemble"][1]} <= given
    assert configs["motion_encoder"].max_batch_size == Limits().max_units
    queue = configs["motion_sample"].dynamic_batching.default_queue_policy
    assert queue.max_queue_size == Limits().queue_size
    assert queue.default_timeout_microseconds == 300_000_000


def test_limits_are_written_and_the_index_comes_last(motion_bundle: Path, tmp_path: Path) -> None:
    write_repository([motion_bundle], target="cpu", out=tmp_path, limits=Limits(queue_size=3))
    text = (tmp_path / "motion_sample" / "config.pbtxt").read_text()
    assert "max_queue_size: 3" in text
    assert [model.name for model in RepositoryIndex.load(tmp_path).models] == ["motion"]


def test_one_name_twice_is_refused(motion_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="motion, motion"):
        write_repository([motion_bundle, motion_bundle], target="cpu", out=tmp_path, limits=Limits())


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no bundle"):
        write_repository([tmp_path], target="cpu", out=tmp_path / "out", limits=Limits())
    assert not (tmp_path / "out" / "repository.json").exists()


def test_an_unknown_target_is_refused(motion_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="cpu"):
        write_repository([motion_bundle], target="gpu", out=tmp_path, limits=Limits())  # type: ignore[arg-type]
