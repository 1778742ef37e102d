"""The repository in git is what `tubelet repository` writes for the demo models."""

import itertools
import subprocess
from collections.abc import Callable
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


MODELS = ("motion", "motion_vtn", "motion_vidtr", "motion_cvidtr")
TOGETHER = {"motion_together": ["motion_vidtr", "motion_vtn"]}
"""As in the Makefile."""
PUBLIC = [*MODELS, *TOGETHER, "motion_frames", "motion_vtn_chunked", "motion_vtn_features"]


@pytest.fixture(scope="module")
def repository(demo_bundle: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    bundles = [demo_bundle(name) for name in MODELS]
    write_repository(bundles, target="cpu", out=folder, limits=Limits(), ensembles=TOGETHER)
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


@pytest.fixture(scope="module")
def configs(repository: Path) -> dict[str, pb.ModelConfig]:
    return {
        path.parent.name: text_format.Parse(path.read_text(), pb.ModelConfig())
        for path in repository.glob("*/config.pbtxt")
    }


@pytest.mark.parametrize("public", PUBLIC)
def test_configurations_parse_and_fit_together(configs: dict[str, pb.ModelConfig], public: str) -> None:
    ensemble = configs[public]
    given = {tensor.name for tensor in ensemble.input}
    taken = {tensor.name for tensor in ensemble.output}
    for step in ensemble.ensemble_scheduling.step:
        config = configs[step.model_name]
        required = {tensor.name for tensor in config.input if not tensor.optional}
        assert required <= set(step.input_map)
        assert set(step.input_map.values()) <= given
        assert set(step.output_map) <= {tensor.name for tensor in config.output}
        assert not given & set(step.output_map.values()), "a tensor is made twice"
        given |= set(step.output_map.values())
        taken |= set(step.input_map.values())
    assert given == taken, "Triton refuses a tensor that nobody takes"


@pytest.mark.parametrize("public", PUBLIC)
def test_steps_of_a_request_run_one_after_the_other(configs: dict[str, pb.ModelConfig], public: str) -> None:
    steps = configs[public].ensemble_scheduling.step
    for before, step in itertools.pairwise(steps):
        assert set(before.output_map.values()) & set(step.input_map.values()), "two that fail at once end Triton 2.51"


def test_configurations_say_whose_they_are(configs: dict[str, pb.ModelConfig], motion_bundle: Path) -> None:
    contract = Manifest.load(motion_bundle).contract
    steps = [name for name in step_tensors(contract) if "ensemble" not in name]
    for name in ("motion", "motion_frames", *(f"motion_{step}" for step in steps)):
        assert configs[name].name == name
        assert configs[name].parameters["contract_digest"].string_value == contract.digest
    assert configs["motion_encoder"].max_batch_size == Limits().max_units
    assert "motion_vidtr_temporal" not in configs
    queue = configs["motion_sample"].dynamic_batching.default_queue_policy
    assert queue.max_queue_size == Limits().queue_size
    assert queue.default_timeout_microseconds == 150_000_000, "half of default_deadline_s"


@pytest.mark.parametrize(
    ("ensembles", "error", "message"),
    [
        ({"both": ["motion", "nobody"]}, InvalidRequestError, "names nobody; there are bundles of motion, motion_vtn"),
        ({"both": ["motion"]}, ContractError, "two or more different members"),
        ({"both": ["motion", "motion"]}, ContractError, "two or more different members"),
        ({"motion": ["motion", "motion_vtn"]}, ContractError, "a name can be served once"),
        ({"not a name": ["motion", "motion_vtn"]}, ContractError, "letters, digits and '_'"),
        ({"motion_frames": ["motion", "motion_vtn"]}, ContractError, "must not end with _frames, "),
        ({"motion_sample": ["motion", "motion_vtn"]}, ContractError, "got twice motion_sample; rename one"),
    ],
)
def test_models_that_cannot_answer_together_are_refused(
    demo_bundle: Callable[[str], Path], tmp_path: Path, ensembles: dict[str, list[str]], error: type, message: str
) -> None:
    bundles = [demo_bundle("motion"), demo_bundle("motion_vtn")]
    with pytest.raises(error, match=message):
        write_repository(bundles, target="cpu", out=tmp_path, limits=Limits(), ensembles=ensembles)
    assert not (tmp_path / "repository.json").exists()


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


def test_an_engine_serves_its_own_target(motion_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"target gpu is served by tensorrt, .*, not by openvino"):
        write_repository([motion_bundle], target="gpu", out=tmp_path, limits=Limits())
    with pytest.raises(InvalidRequestError, match="on target cpu the decoder is pyav, not nvdec"):
        write_repository([motion_bundle], target="cpu", out=tmp_path, limits=Limits(), decoder="nvdec")
    assert not list(tmp_path.iterdir())
