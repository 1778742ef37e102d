"""A repository's table of contents."""

from pathlib import Path

import pytest

from tubelet.spec.engine import Running
from tubelet.spec.errors import ContractError
from tubelet.spec.repository import REPOSITORY_FILE, RepositoryIndex, ServedModel


def test_round_trip(tmp_path: Path) -> None:
    model = ServedModel(
        name="motion",
        contract_digest="sha256:0",
        entries=("motion", "motion_frames"),
        works_as=("motion",),
        canary_protocol="1x1",
        shm_bytes=4096,
        max_silence_s=70.0,
        running=Running(engine="openvino", precision="bf16", mode="throughput"),
        verified=True,
    )
    index = RepositoryIndex(schema_version=1, target="cpu", models=(model,))
    index.save(tmp_path)
    assert RepositoryIndex.load(tmp_path) == index


def test_an_unfinished_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"run tubelet repository"):
        RepositoryIndex.load(tmp_path)
    (tmp_path / REPOSITORY_FILE).write_text("{")
    with pytest.raises(ContractError):
        RepositoryIndex.load(tmp_path)


def test_an_index_of_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / REPOSITORY_FILE).write_text('{"schema_version": 2, "target": "cpu", "models": []}')
    with pytest.raises(ContractError, match=r"another version of tubelet: .*schema_version.*run tubelet repository"):
        RepositoryIndex.load(tmp_path)
