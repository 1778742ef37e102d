"""What `tubelet serve` refuses before it starts anything."""

from dataclasses import replace
from pathlib import Path

import pytest

from tubelet.engines import open as opening
from tubelet.server import card
from tubelet.server.card import check_card, installed_tensorrt, memory_pools
from tubelet.server.options import ServeOptions, check_options, start_timeout_s
from tubelet.server.triton import Pools, Triton, find_tritonserver
from tubelet.spec.engine import EngineName, Precision, Running
from tubelet.spec.errors import ExportMismatchError, MachineError
from tubelet.spec.plan import Gpu
from tubelet.spec.repository import RepositoryIndex, ServedModel

OPTIONS = ServeOptions(repository=Path())


def index(*, verified: bool = True, engine: EngineName = "openvino", precision: Precision = "fp32") -> RepositoryIndex:
    model = ServedModel(
        name="motion",
        contract_digest="sha256:0",
        entries=("motion",),
        works_as=("motion",),
        canary_protocol="1x1",
        shm_bytes=4096,
        max_silence_s=70.0,
        running=Running(engine=engine, precision=precision, mode="latency"),
        verified=verified,
    )
    return RepositoryIndex(schema_version=1, target="cpu", models=(model,))


def check(options: ServeOptions, found: RepositoryIndex) -> None:
    check_options(options, find_tritonserver(), found)


def test_what_is_verified_may_be_served() -> None:
    check(OPTIONS, index())


def test_what_is_not_verified_is_refused_unless_told_otherwise() -> None:
    found = index(verified=False, engine="onnxruntime", precision="int8")
    remedy = r"tubelet verify BUNDLE --engine onnxruntime --precision int8 --videos DIR.*--allow-unverified"
    with pytest.raises(ExportMismatchError, match=remedy) as caught:
        check(OPTIONS, found)
    assert caught.value.code == "unverified"
    check(replace(OPTIONS, allow_unverified=True), found)


@pytest.mark.parametrize("allow", [False, True])
def test_bf16_is_refused_where_the_processor_lacks_it(monkeypatch: pytest.MonkeyPatch, allow: bool) -> None:
    monkeypatch.setattr(opening, "has_bf16", lambda: False)
    with pytest.raises(MachineError, match="this processor has no bf16") as caught:
        check(replace(OPTIONS, allow_unverified=allow), index(precision="bf16"))
    assert caught.value.code == "missing"
    check(OPTIONS, index(precision="int8"))


def test_the_wheels_triton_stays_at_home() -> None:
    with pytest.raises(MachineError, match="must not listen on"):
        check(replace(OPTIONS, address="0.0.0.0"), index())
    check(replace(OPTIONS, address="0.0.0.0", expose_unpatched_triton=True), index())


@pytest.mark.parametrize("triton", [find_tritonserver(), Triton(binary=Path("tritonserver"), is_wheel=False)])
def test_shared_memory_is_for_callers_of_this_machine(triton: Triton) -> None:
    check_options(replace(OPTIONS, allow_shared_memory=True), triton, index())
    everywhere = replace(OPTIONS, allow_shared_memory=True, address="0.0.0.0", expose_unpatched_triton=True)
    with pytest.raises(MachineError, match="--allow-shared-memory"):
        check_options(everywhere, triton, index())


def test_a_command_must_exist() -> None:
    with pytest.raises(MachineError, match="cannot run 'no-such-command'"):
        check(replace(OPTIONS, command=("no-such-command",)), index())


# Target gpu

CONTAINER = Triton(binary=Path("tritonserver"), is_wheel=False)
H100 = Gpu(name="NVIDIA H100 80GB HBM3", compute_capability="9.0", driver="580.0")
IN_CONTAINER = {"NV_TENSORRT_VERSION": "11.2.1.2"}


def for_card(
    engine: EngineName = "tensorrt", *, tensorrt: str | None = "11.2.1.2", gpu: str = H100.name
) -> RepositoryIndex:
    (model,) = index(engine=engine, precision="fp16").models
    more = replace(model, device_pool_bytes=300, pinned_pool_bytes=50, tensorrt=tensorrt, gpu=gpu)
    return RepositoryIndex(schema_version=1, target="gpu", models=(more, replace(more, name="other")))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The container on a machine with a card: its folder of backends, and one for engines."""
    for name in ("python", "onnxruntime", "tensorrt"):
        (tmp_path / "backends" / name).mkdir(parents=True)
    (tmp_path / "engines").mkdir()
    monkeypatch.setattr(card, "BACKENDS", tmp_path / "backends")
    monkeypatch.setattr(card, "ENGINE_FOLDER", str(tmp_path / "engines"))
    monkeypatch.setattr(card, "GPU_DEVICE", tmp_path / "nvidia0")
    monkeypatch.setattr(card, "find_gpu", lambda: H100)
    return tmp_path


def test_the_wheels_triton_serves_no_card() -> None:
    with pytest.raises(
        MachineError, match=r"the Python backend only; serve it in the container .*tritonserver:26.08-py3"
    ):
        check(OPTIONS, for_card())


def test_a_card_is_served_where_all_is_there(machine: Path) -> None:
    check_options(OPTIONS, CONTAINER, for_card())
    check_card(CONTAINER, for_card(), IN_CONTAINER)
    check_card(CONTAINER, for_card(tensorrt=None), {"NV_TENSORRT_VERSION": "11.4.0.1"})
    (machine / "backends" / "tensorrt").rmdir()
    check_card(CONTAINER, for_card("onnxruntime_cuda"), IN_CONTAINER)
    with pytest.raises(MachineError, match="this Triton has no backend tensorrt; take nvcr"):
        check_card(CONTAINER, for_card(), IN_CONTAINER)


def test_plans_of_another_machine_are_refused(machine: Path) -> None:
    with pytest.raises(
        MachineError, match=r"motion were built by TensorRT 11.2.1.2, but 11.4.0.1 is here.*tubelet engine"
    ):
        check_card(CONTAINER, for_card(), {"NV_TENSORRT_VERSION": "11.4.0.1"})
    with pytest.raises(MachineError, match="built for NVIDIA L4, but NVIDIA H100 80GB HBM3 is here"):
        check_card(CONTAINER, for_card(gpu="NVIDIA L4"), IN_CONTAINER)


def test_a_machine_without_a_card_is_refused(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Gpu:
        raise MachineError("missing", "no NVIDIA GPU is here")

    monkeypatch.setattr(card, "find_gpu", none)
    with pytest.raises(MachineError, match="no NVIDIA GPU is here"):
        check_card(CONTAINER, for_card(), IN_CONTAINER)
    card.GPU_DEVICE.touch()
    check_card(CONTAINER, for_card(), IN_CONTAINER)  # one without a name, where the driver's tools are not


def test_engines_that_are_built_need_a_place(machine: Path) -> None:
    check_card(CONTAINER, for_card("onnxruntime_tensorrt"), IN_CONTAINER)
    (machine / "engines").rmdir()
    with pytest.raises(MachineError, match="cannot be written; mount a volume there"):
        check_card(CONTAINER, for_card("onnxruntime_tensorrt"), IN_CONTAINER)
    check_card(CONTAINER, for_card(), IN_CONTAINER)


def test_the_images_word_for_tensorrt() -> None:
    assert installed_tensorrt(IN_CONTAINER) == "11.2.1.2"
    assert installed_tensorrt({"TRT_VERSION": "11.2.1.2+cuda13.4"}) == "11.2.1.2"
    assert installed_tensorrt({}) is None


def test_the_pools_are_those_of_all_models_together() -> None:
    assert memory_pools(for_card()) == Pools(device_bytes=600, pinned_bytes=100)
    assert memory_pools(index()) is None


def test_a_card_gets_more_time_to_start() -> None:
    times = [start_timeout_s(each) for each in (index(), for_card(), for_card("onnxruntime_tensorrt"))]
    assert times == sorted(set(times))
