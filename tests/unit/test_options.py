"""What `tubelet serve` refuses before it starts anything."""

from dataclasses import replace
from pathlib import Path

import pytest

from tubelet.engines import open as opening
from tubelet.server.options import ServeOptions, check_options
from tubelet.server.triton import find_tritonserver
from tubelet.spec.engine import EngineName, Precision, Running
from tubelet.spec.errors import ExportMismatchError, MachineError
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


def test_a_command_must_exist() -> None:
    with pytest.raises(MachineError, match="cannot run 'no-such-command'"):
        check(replace(OPTIONS, command=("no-such-command",)), index())
